"""Writes report.html of a finished training: results, curves, soft labels and a case study in one file.

python scripts/report.py WORKDIR

Training writes it too, at its end. What needs the data is left out where they are no longer there.
"""

from pathlib import Path

from absl import app, logging

from cusa_jax.command import script
from cusa_jax.finish import report


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("name the folder of one finished training")
    logging.set_verbosity(logging.ERROR)
    print(report(Path(argv[1])))


if __name__ == "__main__":
    script(main)
