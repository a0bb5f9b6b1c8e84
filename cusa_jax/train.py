"""The training loop: resume, step, log, validate, checkpoint. What comes after it is in finish.py."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging

from cusa_jax import sharding
from cusa_jax.checkpoint import Checkpoints
from cusa_jax.compiled import keep_compiled
from cusa_jax.data import tokenizer_file
from cusa_jax.data.tokenize import TOKENIZERS
from cusa_jax.distributed import is_first, stop_requests, together
from cusa_jax.errors import Diverged, InputError
from cusa_jax.evaluation.retrieval import Evaluator
from cusa_jax.experiment import Experiment, build
from cusa_jax.files import written_whole
from cusa_jax.host_memory import give_back_of
from cusa_jax.keys import Config
from cusa_jax.models import families
from cusa_jax.runlog import RunLog
from cusa_jax.step import jitted, outcome
from cusa_jax.types import Params, TrainState
from cusa_jax.workdir import COMPILED, check_owner, claimed

# How many steps the host gives to the devices before they are done.
_STEPS_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training that came to its end.

    variables: of the model that validated best, on the mesh. step, r_mean: when that was, and its validation.
    start: validation before the first step; None of a run that older versions began.
    """

    run: Experiment
    variables: Params
    step: int
    r_mean: float
    start: float | None


@dataclasses.dataclass(frozen=True)
class Stopped:
    """A training that SIGTERM or SIGINT asked to stop: everything was saved at `step`, and the same call continues."""

    step: int


def train(config: Config, workdir: Path) -> Trained | Stopped:
    """Runs or continues the training that `config` describes, in `workdir`.

    Raises InputError for bad input, Diverged where a loss, gradient or update is not finite.
    """
    values = dataclasses.asdict(config)
    check_owner(workdir, values)
    run = build(config)
    give_back_of(sharding.num_bytes(run.abstract_state))
    student = run.recipe.student
    described = {"config": values, **families.describe(student.family, student.sizes)}
    with (
        claimed(workdir, values),
        contextlib.closing(Checkpoints(workdir, described, config.checkpoint.keep)) as checkpoints,
        contextlib.closing(run.batches),
        stop_requests() as stop_requested,
    ):
        if config.compiled:
            keep_compiled(workdir / COMPILED)
        _keep_tokenizer(student.inputs.text.tokenizer, workdir)
        state, progress = _resume_or_start(run, checkpoints)
        _announce(run, int(state.step))
        log = RunLog(workdir, run.last_step, run.steps_per_epoch, config.batch_size, start=int(state.step))
        with contextlib.closing(log):
            stopped = _loop(run, workdir, state, progress, checkpoints, log, stop_requested)
        if stopped:
            logging.warning("stopped at step %d, saved; the same command continues", stopped.step)
            return stopped
        variables = checkpoints.restore_best(progress["step"], run.abstract_state)
        return Trained(run, variables, progress["step"], progress["r_mean"], progress.get("start"))


def _loop(
    run: Experiment,
    workdir: Path,
    state: TrainState,
    progress: dict[str, Any],
    checkpoints: Checkpoints,
    log: RunLog,
    stop_requested: Callable[[int], bool],
) -> Stopped | None:
    """Steps from `state` to the last one, or until a stop is requested; keeps `progress` up to date."""
    config, step, first = run.config, int(state.step), int(state.step) + 1
    train_step, evaluate = together(jitted(run.recipe)), Evaluator(run.recipe.student, run.mesh, config)
    recent = _Recent(checkpoints)
    # Merging changes no shape: what is evaluated and saved lies on the mesh as the state does.
    learned = together(jax.jit(functools.partial(outcome, recipe=run.recipe), out_shardings=_learned_on(run)))

    def validate(result: TrainState) -> dict[str, float]:
        metrics = evaluate(result.variables, run.splits["val"])
        log.evaluated(step, "val", metrics)
        return metrics

    def select() -> None:
        """Validates, and keeps the best model so far."""
        result = learned(state)
        metrics = validate(result)
        if metrics["r_mean"] > progress["r_mean"]:
            progress.update(step=step, r_mean=metrics["r_mean"])
            checkpoints.save_best(step, result, metrics)

    if not step:
        # The start is what a training is measured against, and no model of its own.
        progress["start"] = validate(learned(state))["r_mean"]
    elif step % run.steps_per_epoch == 0:
        # The checkpoint was written before its validation.
        select()
    while step < run.last_step and not _gave_up(run, step, progress):
        batch = sharding.put_batch(next(run.batches), run.mesh)
        state, metrics = train_step(state, run.teacher_params, batch)
        step += 1
        recent.add(metrics)
        if step == first:
            log.start_clock(step, metrics)
        stop, end_of_epoch = stop_requested(step), step % run.steps_per_epoch == 0
        save = end_of_epoch or stop or step % config.checkpoint.every_steps == 0
        report = step in (1, run.last_step) or step % config.log.every_steps == 0
        if save or report:
            latest = recent.check(step)
        if report:
            log.train(step, latest | {"learning_rate": float(run.learning_rates[step - 1])})
        if save:
            checkpoints.save(state, run.batches, progress)
        if stop:
            return Stopped(step)
        if end_of_epoch:
            select()
    return None


def _learned_on(run: Experiment) -> TrainState:
    """The shardings of `step.outcome`."""
    state = run.abstract_state
    params = {name: state.params[name] for name in ("model", "scalars")}
    return jax.tree.map(lambda leaf: leaf.sharding, dataclasses.replace(state, params=params, opt_state=()))


def _gave_up(run: Experiment, step: int, progress: dict[str, Any]) -> bool:
    """Whether, at the end of an epoch, as many as `schedule.patience` brought no better validation."""
    since, patience = step - progress["step"], run.config.schedule.patience * run.steps_per_epoch
    return bool(step and patience) and step % run.steps_per_epoch == 0 and since >= patience


class _Recent:
    """Metrics of the last steps, which are still on the devices."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints, self._metrics = checkpoints, list[dict[str, jax.Array]]()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Waits for the step before the last few: without a bound all batches up to the next report would queue."""
        self._metrics.append(metrics)
        if len(self._metrics) > _STEPS_AHEAD:
            jax.block_until_ready(self._metrics[-1 - _STEPS_AHEAD])

    def check(self, step: int) -> dict[str, float]:
        """The newest, of `step`, as floats; the others are forgotten.

        Raises Diverged naming the first step and quantity that is not finite.
        """
        values = [{name: float(x) for name, x in one.items()} for one in jax.device_get(self._metrics)]
        self._metrics.clear()
        for when, metrics in enumerate(values, start=step - len(values) + 1):
            not_finite = [name for name, value in metrics.items() if not math.isfinite(value)]
            if not_finite:
                # The terms come before their sum and the gradient: name the cause, not the consequence.
                name = next((name for name in not_finite if name.startswith("loss_")), not_finite[0])
                raise Diverged(
                    f"step {when}: {name} is {metrics[name]}; training stopped, {self._last_good()}. Lower "
                    "config.optim.lr or set config.optim.clip_norm, in another --workdir"
                )
        return values[-1]

    def _last_good(self) -> str:
        newest = self._checkpoints.newest()
        return f"the last good checkpoint is {newest}" if newest else "before the first checkpoint"


def _resume_or_start(run: Experiment, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
    """The state to train from, and the progress beside it: the best validation so far, and which data it saw."""
    restored = checkpoints.restore(run.abstract_state, run.batches)
    if restored is None:
        return run.initial_state(), {"step": 0, "r_mean": -1.0, "data": run.data_fingerprint}
    state, progress = restored
    if progress["data"] != run.data_fingerprint:
        raise InputError(
            f"{run.config.data.path}: the training captions have changed since this run began; bring the old ones "
            "back, or choose another --workdir"
        )
    return state, progress


def _keep_tokenizer(tokenizer: str, workdir: Path) -> None:
    """A copy of a tokenizer that comes with weights: the run's folder holds all of its model."""
    if tokenizer not in TOKENIZERS and is_first():
        with written_whole(workdir / tokenizer_file.FILE) as fresh:
            fresh.write_bytes(tokenizer_file.content(tokenizer))


def _announce(run: Experiment, step: int) -> None:
    if is_first():
        train = run.splits["train"]
        print(
            f"{len(train.captions)} captions of {len(train.table.image_ids)} images | {run.last_step} steps of "
            f"{run.config.batch_size} pairs, {run.steps_per_epoch} an epoch | "
            f"{run.mesh.size} x {jax.devices()[0].device_kind}",
            f"continuing from step {step}" if step else "compiling the train step",
            sep="\n",
            flush=True,
        )
