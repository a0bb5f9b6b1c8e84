"""Compares finished runs: prints their test results side by side and draws their learning curves.

python scripts/compare.py --curves=curves.png RUN RUN …
"""

from pathlib import Path

from absl import app, flags

from cusa_jax.command import script
from cusa_jax.report.compare import comparison, learning_curves

CURVES = flags.DEFINE_string("curves", "", "PNG to write the learning curves to.")


def main(argv: list[str]) -> None:
    workdirs = [Path(argument) for argument in argv[1:]]
    if not workdirs:
        raise app.UsageError("name the folders of the runs to compare")
    print(comparison(workdirs))
    if CURVES.value:
        learning_curves(workdirs, Path(CURVES.value))
        print(f"learning curves: {CURVES.value}")


if __name__ == "__main__":
    script(main)
