"""Orbax checkpoints: the whole state of a run to continue from, and the best model by validation.

    workdir/checkpoints/STEP/   state, data iterator, progress (best so far, checksums), config: async, last few kept
    workdir/best/STEP/          the model's variables and the temperatures, config, validation metrics

Orbax commits a step by renaming its finished folder, so a killed process leaves no half-written checkpoint. It
does not notice flipped bits, so every leaf carries a checksum, taken on device.
"""

import time
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from cusa_jax.distributed import all_agree, is_first, wait_for_all
from cusa_jax.errors import InputError
from cusa_jax.types import Params, TrainState


class Checkpoints:
    """The checkpoints of one run. Saving returns as soon as the arrays are copied; `close` waits for the disk.

    described: what lies beside every checkpoint, {'config': the configuration, 'clip': the sizes of the model}.
    """

    def __init__(self, workdir: Path, described: dict[str, Any], keep: int):
        self._workdir = workdir
        self._described = described
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
                config=ocp.args.JsonSave(self._described),
            ),
        )

    def restore(
        self, like: TrainState, batches: grain.DatasetIterator
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest sound checkpoint as (state, progress), and `batches` moved to where it was; None if none is.

        like: shapes and shardings. Newer, damaged checkpoints are set aside in workdir/damaged/ and named. Raises
        InputError where there are checkpoints but none is sound: nothing is moved, nothing starts over.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._latest.all_steps(), reverse=True):
            restored, damage = self._restore(step, like)
            # Only where every process has read its part is it safe to compute on the whole.
            if not all_agree(not damage):
                damaged[step] = damage or "another process cannot read it"
            elif not _sound(restored["state"], restored["progress"]):
                damaged[step] = "the arrays do not match their checksums"
            else:
                self._set_aside(damaged)
                batches.set_state(restored["batches"])
                return restored["state"], restored["progress"]
        if damaged:
            step, damage = next(iter(damaged.items()))
            raise InputError(
                f"{self._workdir / 'checkpoints'}: none of the {len(damaged)} checkpoints can be read (step {step}: "
                f"{damage}); nothing was moved; bring one back, or choose another --workdir to start over"
            )
        return None

    def save_best(self, step: int, state: TrainState, metrics: dict[str, float]) -> None:
        """The model that validated best so far; it replaces the former best."""
        self._best.wait_until_finished()
        for later in self._best.all_steps():
            if later >= step:  # of a run that went further and came back to an older checkpoint
                self._best.delete(later)
        best = _learned(state)
        saved = self._best.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(best),
                progress=ocp.args.JsonSave({**metrics, "checksums": checksums(best)}),
                config=ocp.args.JsonSave(self._described),
            ),
        )
        assert saved, f"Orbax declined to save the best model of step {step}"

    def restore_best(self, step: int, like: TrainState) -> Params:
        """The variables of the best model, which `save_best` saved at `step`. like: shapes and shardings."""
        self._best.wait_until_finished()
        model = ocp.args.StandardRestore(_learned(like))
        return _restore_best(self._best, step, self._workdir / "best", model=model)["model"]["variables"]

    def wait(self) -> None:
        """Returns when everything saved is on disk."""
        self._latest.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._latest.close()
        self._best.close()

    def _restore(self, step: int, like: TrainState) -> tuple[Any, str]:
        """(everything saved at `step`, '') or (None, what is wrong with it)."""
        try:
            restored = self._latest.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(like),
                    batches=ocp.args.JsonRestore(),
                    progress=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:  # whatever Orbax, TensorStore and JSON make of a damaged file
            return None, _reason(error)
        return restored, ""

    def _set_aside(self, damaged: dict[int, str]) -> None:
        for step, damage in damaged.items():
            source, target = self._workdir / "checkpoints" / str(step), self._workdir / "damaged" / str(step)
            logging.error("checkpoint %s is damaged (%s); moved to %s, continuing from the one before",
                          source, damage, target)  # fmt: skip
            if is_first() and source.exists():
                target.parent.mkdir(exist_ok=True)
                source.rename(target if not target.exists() else target.with_suffix(f".{time.time_ns()}"))
        if damaged:
            wait_for_all("damaged checkpoints are set aside")
            self._latest.reload()


def _learned(state: TrainState) -> dict[str, Any]:
    return {"variables": state.variables, "scalars": state.params["scalars"]}


def read_best(workdir: Path) -> tuple[Params, dict[str, Any]]:
    """({'variables', 'scalars'} as numpy arrays, what describes the run) of a run's best model, wherever it was trained.

    Raises InputError where there is none, or it is damaged.
    """
    folder = workdir / "best"
    handlers = {  # which Orbax needs to tell of a tree that it did not save itself
        "model": ocp.PyTreeCheckpointHandler(),
        "progress": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(create=False)
    with ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers) as manager:
        step = manager.latest_step()
        if step is None:
            raise InputError(f"{folder}: no checkpoint in it")
        try:
            tree = manager.item_metadata(step)["model"]
            arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        except Exception as error:  # as below
            raise _damaged(folder, step, error) from error
        model = ocp.args.PyTreeRestore(restore_args=arrays)
        restored = _restore_best(manager, step, folder, model=model, config=ocp.args.JsonRestore())
    return restored["model"], restored["config"]


def _restore_best(manager: ocp.CheckpointManager, step: int, folder: Path, **items: Any) -> Any:
    """What `items` ask for of the best model. Raises InputError where it is damaged."""
    try:
        restored = manager.restore(step, args=ocp.args.Composite(**items, progress=ocp.args.JsonRestore()))
        if not _sound(restored["model"], restored["progress"]):
            raise ValueError("its arrays do not match their checksums")
    except Exception as error:  # whatever Orbax, TensorStore and JSON make of a damaged file
        raise _damaged(folder, step, error) from error
    return restored


def _damaged(folder: Path, step: int, why: Exception) -> InputError:
    return InputError(f"{folder / str(step)}: the best model is damaged ({_reason(why)}); bring it back")


def checksums(tree: Any) -> list[int]:
    """One number per leaf: the sum of its bits as 32-bit words, modulo 2^32. Any single change shows."""
    return [int(n) for n in jax.device_get(_sums(jax.tree.leaves(tree)))]


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    def one(leaf: jax.Array) -> jax.Array:
        words = jax.lax.bitcast_convert_type(leaf, {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize])
        return words.astype(jnp.uint32).sum(dtype=jnp.uint32)

    return [one(leaf) for leaf in leaves]


def _sound(tree: Any, progress: dict[str, Any]) -> bool:
    return checksums(tree) == progress["checksums"]


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    return ocp.CheckpointManager(folder.absolute(), options=options)
