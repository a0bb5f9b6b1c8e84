"""Orbax checkpoints: the whole state of a run to continue from, and the best model by validation.

    workdir/checkpoints/STEP/   state, data iterator, progress (best so far, checksums), config: async, last few kept
    workdir/best/STEP/          the model's variables and the temperatures, config, validation metrics

Orbax commits a step by renaming its finished folder, so a killed process leaves no half-written checkpoint. It
does not notice flipped bits, so every leaf carries a checksum, taken on device (`checksum.py`), and every JSON item
a digest. Checkpoints from before there were digests are read by the plain sums that they have.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from cusa_jax.checksum import checksums, sums_of_old
from cusa_jax.distributed import all_agree, is_first, wait_for_all
from cusa_jax.errors import InputError, one_line
from cusa_jax.types import Params, TrainState
from cusa_jax.workdir import differences

_FORMAT = 2  # of `_sealed`; without a number: plain sums, nothing for the JSON items


class Checkpoints:
    """The checkpoints of one run. Saving returns as soon as the arrays are copied; `close` waits for the disk.

    described: what lies beside every checkpoint, {'config': the configuration, 'family' and 'sizes': of the student}.
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
        position = batches.get_state()
        self._latest.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                # A function of the step alone, and JSON: the run may continue with other processes and workers.
                batches=ocp.args.JsonSave(position),
                progress=ocp.args.JsonSave(
                    _sealed(progress, state, batches=position, config=self._described)
                ),
                config=ocp.args.JsonSave(self._described),
            ),
        )

    def restore(
        self, like: TrainState, batches: grain.DatasetIterator
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest sound checkpoint as (state, progress), and `batches` moved to where it was; None if none is.

        like: shapes and shardings. Newer, damaged checkpoints are set aside in workdir/damaged/ and named. Raises
        InputError where there are checkpoints but none is sound: nothing is moved, nothing starts over; and where
        the newest sound one is of another configuration.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._latest.all_steps(), reverse=True):
            restored, damage = self._restore(step, like)
            # Only where every process has read its part is it safe to compute on the whole.
            if not all_agree(not damage):
                damaged[step] = damage or "another process cannot read it"
            elif damage := _damage(restored["state"], restored):
                damaged[step] = damage
            else:
                self._check_run(self._workdir / "checkpoints" / str(step), restored["config"])
                self._set_aside(damaged)
                batches.set_state(restored["batches"])
                return restored["state"], _unsealed(restored["progress"])
        if damaged:
            step, damage = next(iter(damaged.items()))
            raise InputError(
                f"{self._workdir / 'checkpoints'}: none of the {len(damaged)} checkpoints can be read (step {step}: "
                f"{damage}); nothing was moved; bring one back, or choose another --workdir to start over"
            )
        return None

    def newest(self) -> Path | None:
        """The folder of the newest checkpoint that is whole on disk; None where there is none."""
        self._latest.wait_until_finished()
        step = self._latest.latest_step()
        return None if step is None else self._workdir / "checkpoints" / str(step)

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
                progress=ocp.args.JsonSave(_sealed(metrics, best, config=self._described)),
                config=ocp.args.JsonSave(self._described),
            ),
        )
        assert saved, f"Orbax declined to save the best model of step {step}"

    def restore_best(self, step: int, like: TrainState) -> Params:
        """The variables of the best model, which `save_best` saved at `step`. like: shapes and shardings."""
        self._best.wait_until_finished()
        model, folder = ocp.args.StandardRestore(_learned(like)), self._workdir / "best"
        restored = _restore_best(self._best, step, folder, model=model)
        self._check_run(folder / str(step), restored["config"])
        return restored["model"]["variables"]

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
                    config=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:  # whatever Orbax, TensorStore and JSON make of a damaged file
            self._check_version(step)
            return None, _reason(error)
        return restored, ""

    def _check_version(self, step: int) -> None:
        """Raises InputError where a checkpoint is of an earlier version of this program: it names no family."""
        try:
            described = self._latest.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))[
                "config"
            ]
        except Exception:
            # Damaged, too.
            return
        if "family" not in described:
            raise InputError(
                f"{self._workdir}: the run was begun by an earlier version of this program, which alone can continue "
                f"it; its best model can be started from, --config.init_from={self._workdir} in another --workdir"
            )

    def _check_run(self, folder: Path, described: Any) -> None:
        """Raises InputError where a checkpoint is of a run of another configuration than this one."""
        if differing := differences(described["config"], self._described["config"], folder):
            raise InputError(
                f"{folder} was saved by a run of another configuration ({differing}); remove it, or choose another "
                "--workdir"
            )

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
    """({'variables', 'scalars'} as numpy arrays, what describes the run) of the best model, wherever it was trained.

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
        restored = _restore_best(manager, step, folder, model=model)
    return restored["model"], restored["config"]


def _restore_best(manager: ocp.CheckpointManager, step: int, folder: Path, *, model: Any) -> Any:
    """The items of the best model, `model` being how to read its arrays. Raises InputError where it is damaged."""
    items = {"model": model, "progress": ocp.args.JsonRestore(), "config": ocp.args.JsonRestore()}
    try:
        restored = manager.restore(step, args=ocp.args.Composite(**items))
        if damage := _damage(restored["model"], restored):
            raise ValueError(damage)
    except Exception as error:  # whatever Orbax, TensorStore and JSON make of a damaged file
        raise _damaged(folder, step, error) from error
    return restored


def _damaged(folder: Path, step: int, why: Exception) -> InputError:
    return InputError(f"{folder / str(step)}: the best model is damaged ({_reason(why)}); bring it back")


def _sealed(progress: dict[str, Any], tree: Any, **items: Any) -> dict[str, Any]:
    """`progress` with what tells changed bits: checksums of the arrays, digests of itself and of the JSON items."""
    digests = {name: _digest(item) for name, item in {**items, "progress": progress}.items()}
    return {**progress, "format": _FORMAT, "checksums": checksums(tree), "digests": digests}


def _unsealed(progress: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in progress.items() if key not in ("format", "checksums", "digests")}


def _damage(tree: Any, restored: Any) -> str:
    """Which of the restored items are not as they were sealed; '' where all are."""
    progress = restored["progress"]
    try:
        sums = {None: sums_of_old, _FORMAT: checksums}[progress.get("format")]
        if sums(tree) != progress["checksums"]:
            return "its arrays do not match their checksums"
        for name in restored.keys() - {"state", "model"} if sums is checksums else ():
            item = _unsealed(progress) if name == "progress" else restored[name]
            if progress["digests"][name] != _digest(item):
                return f"its {name} does not match its digest"
    except (KeyError, TypeError, AttributeError) as error:
        return f"its progress is not as it was written ({error!r})"
    return ""


def _digest(value: Any) -> str:
    """sha256 of a JSON value, the same before it is written and after it is read."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    return one_line(" ".join(str(error).split())[:200]) or type(error).__name__


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    return ocp.CheckpointManager(folder.absolute(), options=options)
