"""A whole run: train, test the model that validated best, once, and write results.json and the report."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from cusa_jax import sharding
from cusa_jax.config import from_values, validate
from cusa_jax.distributed import is_first
from cusa_jax.errors import InputError
from cusa_jax.evaluation.retrieval import Evaluator, ScoredSplit, intervals, metrics
from cusa_jax.experiment import Experiment, build
from cusa_jax.jsonfile import read_json, write_json
from cusa_jax.runlog import INTERVALS, RunLog, read_results
from cusa_jax.train import Stopped, Trained, train
from cusa_jax.types import Params
from cusa_jax.weights.formats import load_model
from cusa_jax.workdir import CONFIG, REPORT, RESULTS, check_owner, claimed, more_epochs


def run(config: Any, workdir: Path) -> dict[str, float] | None:
    """Runs, continues or completes what `config` describes, in `workdir`.

    Returns the test metrics of the model that validated best, which results.json holds too; None where the training
    was asked to stop: the same call continues. A finished run is not tested again, unless `config` has more epochs.
    Raises InputError for bad input, Diverged where a loss, gradient or update is not finite.
    """
    settings = validate(config)
    if (workdir / RESULTS).exists():
        check_owner(workdir, dataclasses.asdict(settings))
        if not more_epochs(workdir, dataclasses.asdict(settings)):
            return _finished(workdir)
    outcome = train(settings, workdir)
    return None if isinstance(outcome, Stopped) else finish(outcome, workdir)


def _finished(workdir: Path) -> dict[str, float]:
    """The test metrics of a finished run, which is left as it is but for a report that is missing."""
    if is_first():
        print(f"finished: {workdir / RESULTS} holds the results", flush=True)
    if not (workdir / REPORT).exists():
        report(workdir)
    return read_results(workdir)["test"]


def finish(trained: Trained, workdir: Path) -> dict[str, float]:
    """Tests, writes results.json, metrics and report, and says where they are. Returns the test metrics."""
    with claimed(workdir, dataclasses.asdict(trained.run.config)):
        scored = _score_test(trained.run, trained.variables)
        split = trained.run.splits["test"]
        test, sure = metrics(scored, split), intervals(scored, split)
        if is_first():
            results = {"best_step": trained.step, "val_r_mean": trained.r_mean, "test": test, INTERVALS: sure}
            if trained.start is not None:
                results["val_r_mean_start"] = trained.start
            write_json(workdir / RESULTS, results)
        with contextlib.closing(_log(trained.run, workdir)) as log:
            log.evaluated(trained.step, "test", test)
        page = _write_report(workdir, trained.run, trained.variables, scored)
    if is_first():
        if trained.start is not None:
            print(
                f"validation: r_mean {trained.start:.2f} before the first step, {trained.r_mean:.2f} at step "
                f"{trained.step}, the best"
                + ("; TRAINING DID NOT IMPROVE ON ITS START" if trained.r_mean <= trained.start else "")
            )
        print(
            f"results: {workdir / RESULTS}",
            f"report: {page}",
            f"best model: {workdir / 'best'}",
            sep="\n",
            flush=True,
        )
    return test


def report(workdir: Path) -> Path:
    """Writes the report of a finished run again. What needs the data is left out where they are no longer there.

    Raises InputError for a run that is not finished.
    """
    from cusa_jax.report import page

    read_results(workdir)
    config = from_values(read_json(workdir / CONFIG), workdir / CONFIG)
    try:
        experiment = build(validate(config))
    except InputError as error:
        missing = f"Not shown: {error}"
        print(missing)
        return page.write_report(workdir, None, missing)
    variables = sharding.put_params(load_model(workdir)[1], experiment.mesh)
    return _write_report(workdir, experiment, variables, _score_test(experiment, variables))


def _score_test(run: Experiment, variables: Params) -> ScoredSplit:
    return Evaluator(run.recipe.student, run.mesh, run.config).score(variables, run.splits["test"])


def _write_report(workdir: Path, run: Experiment, variables: Params, scored: ScoredSplit) -> Path:
    # Plots and templates take a second to import, which a training that begins need not wait for.
    from cusa_jax.report import page, soft_labels

    similarities = soft_labels.of_first_batch(run, variables)
    return page.write_report(workdir, page.gather(scored, run.splits["test"], similarities))


def _log(run: Experiment, workdir: Path) -> RunLog:
    return RunLog(workdir, run.last_step, run.steps_per_epoch, run.config.batch_size, start=None)
