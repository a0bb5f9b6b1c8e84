"""The training loop: resume, step, log, validate, checkpoint; at the end, test the best model once."""

import contextlib
import functools
import math
from pathlib import Path
from typing import Any

import jax
from absl import logging

from cusa_jax import sharding
from cusa_jax.checkpoint import Checkpoints
from cusa_jax.config import validate
from cusa_jax.distributed import is_first, stop_requests
from cusa_jax.errors import Diverged
from cusa_jax.evaluation.retrieval import Evaluator
from cusa_jax.experiment import build
from cusa_jax.runlog import RunLog
from cusa_jax.step import train_step
from cusa_jax.workdir import RESULTS, check_owner, claim, read_json, write_json


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
    total_steps = config.schedule.epochs * run.steps_per_epoch
    step_function = jax.jit(functools.partial(train_step, recipe=run.recipe), donate_argnums=0)
    evaluate = Evaluator(run.recipe.model, run.mesh, config)

    with (
        contextlib.closing(Checkpoints(workdir, config.to_dict(), config.checkpoint.keep)) as checkpoints,
        contextlib.closing(run.batches) as batches,
        stop_requests() as stop_requested,
    ):
        if (restored := checkpoints.restore(run.abstract_state, batches)) is not None:
            state, best = restored[0], restored[1]["best"]
        else:
            state, best = run.initial_state(), {"r_mean": -1.0, "step": 0}
        step = int(state.step)
        if step and is_first():
            print(f"continuing from step {step}", flush=True)

        with contextlib.closing(
            RunLog(workdir, total_steps, run.steps_per_epoch, config.batch_size, start=step)
        ) as log:
            unchecked: list[dict[str, jax.Array]] = []  # metrics of the last steps, still on device
            stop = False
            while step < total_steps and not stop:
                batch = next(batches)
                if batch.skipped:
                    logging.warning("step %d: %d unreadable images replaced", step + 1, batch.skipped)
                rows = sharding.put_batch(batch.replace(skipped=None), run.mesh)
                state, metrics = step_function(state, run.teacher_params, rows)
                step += 1
                unchecked.append(metrics)

                stop = stop_requested(step)
                end_of_epoch = step % run.steps_per_epoch == 0
                save = end_of_epoch or step % config.checkpoint.every_steps == 0 or stop
                if save or step % config.log.every_steps == 0:
                    latest = _check_finite(unchecked, step, workdir)
                    unchecked.clear()
                if step % config.log.every_steps == 0:
                    log.train(step, latest | {"learning_rate": float(run.learning_rates[step - 1])})
                if end_of_epoch:
                    metrics = evaluate(state.variables, run.splits["val"])
                    log.evaluated(step, "val", metrics)
                    if metrics["r_mean"] > best["r_mean"]:
                        best = {"r_mean": metrics["r_mean"], "step": step}
                        checkpoints.save_best(step, state, metrics)
                if save:
                    checkpoints.save(state, batches, {"best": best})

            if step < total_steps:
                logging.warning("stopped at step %d, saved; the same command continues", step)
                return None
            variables = checkpoints.restore_best(best["step"], run.abstract_state)
            metrics = evaluate(variables, run.splits["test"])
            if is_first():
                results = {"best_step": best["step"], "val_r_mean": best["r_mean"], "test": metrics}
                write_json(workdir / RESULTS, results)
            log.evaluated(best["step"], "test", metrics)
    return metrics


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
