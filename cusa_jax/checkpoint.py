"""Orbax checkpoints: the whole state of a run to continue from, and the best model by validation.

    workdir/checkpoints/STEP/   state, data iterator, progress (best so far, checksums), config: async, last few kept
    workdir/best/STEP/          the model's variables and the temperatures, config, validation metrics

Orbax commits a step by renaming its finished folder, so a killed process leaves no half-written checkpoint. It
does not notice flipped bits, so every leaf carries a checksum, taken on device.
"""

from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging

from cusa_jax.distributed import all_agree, is_first, wait_for_all
from cusa_jax.errors import InputError
from cusa_jax.types import Params, TrainState


class Checkpoints:
    """The checkpoints of one run. Saving returns as soon as the arrays are copied; `close` waits for the disk."""

    def __init__(self, workdir: Path, config: dict[str, Any], keep: int):
        self._workdir = workdir
        self._config = config
        self._latest = _manager(workdir / "checkpoints", keep)
        self._best = _manager(workdir / "best", 1)

    def save(self, state: TrainState, batches: grain.DatasetIterator, progress: dict[str, Any]) -> None:
        """Everything that training needs to continue bit for bit, under the state's step."""
        step = int(state.step)
        if step in self._latest.all_steps():
            return
        self._latest.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                # A function of the step alone, and JSON: the run may continue with other processes and workers.
                batches=ocp.args.JsonSave(batches.get_state()),
                progress=ocp.args.JsonSave({**progress, "checksums": checksums(state)}),
                config=ocp.args.JsonSave(self._config),
            ),
        )

    def restore(
        self, state: TrainState, batches: grain.DatasetIterator
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest sound checkpoint as (state, progress), and `batches` moved to where it was; None if none is.

        state gives shapes and shardings. Damaged checkpoints are set aside in workdir/damaged/ and named.
        """
        for step in sorted(self._latest.all_steps(), reverse=True):
            try:
                restored, damage = self._restore(step, state), None
            except Exception as error:  # whatever Orbax, TensorStore and JSON make of a damaged file
                restored, damage = None, error
            if all_agree(damage is None):
                assert restored is not None
                batches.set_state(restored["batches"])
                return restored["state"], restored["progress"]
            self._set_aside(step, damage or "another process could not read it")
        return None

    def save_best(self, step: int, state: TrainState, metrics: dict[str, float]) -> None:
        """The model that validated best so far; it replaces the former best."""
        if step in self._best.all_steps():  # a resumed run has come here before, with the same bits
            return
        best = _learned(state)
        self._best.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(best),
                progress=ocp.args.JsonSave({**metrics, "checksums": checksums(best)}),
                config=ocp.args.JsonSave(self._config),
            ),
        )

    def restore_best(self, state: TrainState) -> tuple[int, Params]:
        """(step, variables) of the best model. state gives shapes and shardings."""
        self._best.wait_until_finished()
        step = self._best.latest_step()
        if step is None:
            raise InputError(f"{self._workdir / 'best'}: no checkpoint to evaluate")
        restored = self._best.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(_abstract(_learned(state))), progress=ocp.args.JsonRestore()
            ),
        )
        _check(restored["model"], restored["progress"])
        return step, restored["model"]["variables"]

    def wait(self) -> None:
        """Returns when everything saved is on disk."""
        self._latest.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._latest.close()
        self._best.close()

    def _restore(self, step: int, state: TrainState) -> Any:
        restored = self._latest.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_abstract(state)),
                batches=ocp.args.JsonRestore(),
                progress=ocp.args.JsonRestore(),
            ),
        )
        _check(restored["state"], restored["progress"])
        return restored

    def _set_aside(self, step: int, damage: Exception | str) -> None:
        source, target = self._workdir / "checkpoints" / str(step), self._workdir / "damaged" / str(step)
        reason = str(damage).splitlines()[0][:200] if str(damage) else type(damage).__name__
        logging.error(
            "checkpoint %s is damaged (%s); moved to %s, trying the one before", source, reason, target
        )
        if is_first() and source.exists():
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        wait_for_all(f"checkpoint {step} is set aside")
        self._latest.reload()


def _learned(state: TrainState) -> dict[str, Any]:
    return {"variables": state.variables, "taus": state.params["taus"]}


def checksums(tree: Any) -> list[int]:
    """One number per leaf: the sum of its bits as 32-bit words, modulo 2^32. Any single change shows."""
    return [int(n) for n in jax.device_get(_sums(jax.tree.leaves(tree)))]


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    def one(leaf: jax.Array) -> jax.Array:
        words = jax.lax.bitcast_convert_type(leaf, {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize])
        return words.astype(jnp.uint32).sum(dtype=jnp.uint32)

    return [one(leaf) for leaf in leaves]


def _check(tree: Any, progress: dict[str, Any]) -> None:
    if checksums(tree) != progress["checksums"]:
        raise ValueError("the arrays do not match their checksums")


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(folder.absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=keep))
