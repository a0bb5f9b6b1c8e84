"""The training loop: resume, step, log, validate, checkpoint; at the end, test the best model once and report."""

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
from absl import logging

from cusa_jax import sharding
from cusa_jax.checkpoint import Checkpoints
from cusa_jax.config import validate
from cusa_jax.distributed import is_first, stop_requests
from cusa_jax.errors import Diverged, InputError
from cusa_jax.evaluation.retrieval import Evaluator
from cusa_jax.evaluation.retrieval import metrics as split_metrics
from cusa_jax.experiment import Experiment, build
from cusa_jax.report import soft_labels
from cusa_jax.report.page import gather, write_report
from cusa_jax.runlog import RunLog
from cusa_jax.step import jitted
from cusa_jax.types import TrainState
from cusa_jax.workdir import RESULTS, check_owner, claim, read_json, write_json

_STEPS_AHEAD = 2  # that the host gives to the devices before they are done


def train(config: Any, workdir: Path) -> dict[str, float] | None:
    """Runs or continues the training that `config` describes, in `workdir`.

    Returns the test metrics of the model that validated best, which results.json holds too (a finished run is not
    evaluated again); None where SIGTERM or SIGINT asked to stop: everything was saved, and the same call continues.
    Raises InputError for bad input, Diverged where a loss, gradient or update is not finite.
    """
    validate(config)
    check_owner(workdir, config)
    if (workdir / RESULTS).exists():
        if is_first():
            print(f"finished: {workdir / RESULTS} holds the results", flush=True)
        return read_json(workdir / RESULTS)["test"]
    run = build(config)
    claim(workdir, config)
    step_function = jitted(run.recipe)
    evaluate = Evaluator(run.recipe.model, run.mesh, config)

    described = {"config": config.to_dict(), "clip": dataclasses.asdict(run.recipe.model.clip)}
    with (
        contextlib.closing(Checkpoints(workdir, described, config.checkpoint.keep)) as checkpoints,
        contextlib.closing(run.batches) as batches,
        stop_requests() as stop_requested,
    ):
        state, progress = _resume_or_start(run, checkpoints, config.data.path)
        step, last_step = int(state.step), config.schedule.epochs * run.steps_per_epoch
        _announce(run, config, step, last_step)
        with contextlib.closing(
            RunLog(workdir, last_step, run.steps_per_epoch, config.batch_size, start=step)
        ) as log:

            def select() -> None:
                """Validates, and keeps the best model so far."""
                metrics = evaluate(state.variables, run.splits["val"])
                log.evaluated(step, "val", metrics)
                if metrics["r_mean"] > progress["r_mean"]:
                    progress.update(step=step, r_mean=metrics["r_mean"])
                    checkpoints.save_best(step, state, metrics)

            if step and step % run.steps_per_epoch == 0:
                select()  # the checkpoint was written before it
            unchecked: list[dict[str, jax.Array]] = []  # metrics of the last steps, still on device
            first, stop = step + 1, False
            while step < last_step and not stop:
                rows = sharding.put_batch(next(batches), run.mesh)
                state, metrics = step_function(state, run.teacher_params, rows)
                step += 1
                unchecked.append(metrics)
                # Without a bound all batches up to the next line of the log would wait on the devices.
                if len(unchecked) > _STEPS_AHEAD:
                    jax.block_until_ready(unchecked[-1 - _STEPS_AHEAD])
                if step == first:
                    log.start_clock(step, metrics)

                stop = stop_requested(step)
                end_of_epoch = step % run.steps_per_epoch == 0
                save = end_of_epoch or stop or step % config.checkpoint.every_steps == 0
                if save or step % config.log.every_steps == 0:
                    latest = _check_finite(unchecked, step, workdir)
                    unchecked.clear()
                if step % config.log.every_steps == 0:
                    log.train(step, latest | {"learning_rate": float(run.learning_rates[step - 1])})
                if save:
                    checkpoints.save(state, batches, progress)
                if end_of_epoch and not stop:
                    select()
            if stop:
                logging.warning("stopped at step %d, saved; the same command continues", step)
                return None
            variables = checkpoints.restore_best(progress["step"], run.abstract_state)
            scored = evaluate.score(variables, run.splits["test"])
            metrics = split_metrics(scored, run.splits["test"])
            if is_first():
                results = {"best_step": progress["step"], "val_r_mean": progress["r_mean"], "test": metrics}
                write_json(workdir / RESULTS, results)
            log.evaluated(progress["step"], "test", metrics)
            similarities = soft_labels.of_first_batch(run, variables)
            write_report(workdir, gather(scored, run.splits["test"], similarities))
            return metrics


def _resume_or_start(
    run: Experiment, checkpoints: Checkpoints, data: str
) -> tuple[TrainState, dict[str, Any]]:
    """The state to train from, and the progress beside it: the best validation so far, and which data it saw."""
    restored = checkpoints.restore(run.abstract_state, run.batches)
    if restored is None:
        return run.initial_state(), {"step": 0, "r_mean": -1.0, "data": run.data_fingerprint}
    state, progress = restored
    if progress["data"] != run.data_fingerprint:
        raise InputError(
            f"{data}: the training captions have changed since this run began; bring the old ones back, or choose "
            "another --workdir"
        )
    return state, progress


def _announce(run: Experiment, config: Any, step: int, last_step: int) -> None:
    if is_first():
        train = run.splits["train"]
        print(
            f"{len(train.captions)} captions of {len(train.table.image_ids)} images | {last_step} steps of "
            f"{config.batch_size} pairs, {run.steps_per_epoch} an epoch | "
            f"{run.mesh.size} x {jax.devices()[0].device_kind}",
            f"continuing from step {step}" if step else "compiling the train step",
            sep="\n",
            flush=True,
        )


def _check_finite(unchecked: list[dict[str, jax.Array]], step: int, workdir: Path) -> dict[str, float]:
    """The newest of `unchecked` as floats. Raises Diverged naming the first step and quantity that is not finite."""
    values = [{name: float(x) for name, x in metrics.items()} for metrics in jax.device_get(unchecked)]
    for when, metrics in enumerate(values, start=step - len(values) + 1):
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            # The terms come before their sum and the gradient: name the cause, not the consequence.
            name = next((name for name in bad if name.startswith("loss_")), bad[0])
            raise Diverged(
                f"step {when}: {name} is {metrics[name]}; training stopped, the last good checkpoint is in "
                f"{workdir / 'checkpoints'}. Lower config.optim.lr or set config.optim.clip_norm, in another --workdir"
            )
    return values[-1]
