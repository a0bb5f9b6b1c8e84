"""Writes report.html of a finished training: results, curves, soft labels and a case study in one file.

python scripts/report.py WORKDIR

Training writes it too, at its end. What needs the data is left out where they are no longer there.
"""

from pathlib import Path

from absl import app, logging

from cusa_jax import sharding
from cusa_jax.command import errors_in_one_line
from cusa_jax.config import from_values
from cusa_jax.errors import InputError
from cusa_jax.evaluation.retrieval import Evaluator
from cusa_jax.experiment import build
from cusa_jax.report import soft_labels
from cusa_jax.report.page import gather, write_report
from cusa_jax.runlog import read_results
from cusa_jax.weights.formats import load_model
from cusa_jax.workdir import CONFIG, read_json


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("name the folder of one finished training")
    logging.set_verbosity(logging.ERROR)
    workdir = Path(argv[1])
    with errors_in_one_line():
        read_results(workdir)
        config = from_values(read_json(workdir / CONFIG), workdir / CONFIG)
        evidence, missing = None, ""
        try:
            run = build(config)
        except InputError as error:
            missing = f"Not shown: {error}"
            print(missing)
        else:
            variables = sharding.put_params(load_model(workdir)[1], run.mesh)
            test = run.splits["test"]
            scored = Evaluator(run.recipe.model, run.mesh, config).score(variables, test)
            evidence = gather(scored, test, soft_labels.of_first_batch(run, variables))
        print(write_report(workdir, evidence, missing))


if __name__ == "__main__":
    app.run(main)
