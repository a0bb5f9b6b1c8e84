"""Trains every loss with its teachers, shuffled teachers and teachers that know nothing, and compares.

python scripts/controls.py --config=configs/demo.py --config.schedule.epochs=1 [--workdir=runs/controls] [--seeds=0,1,2]

Run it again to continue after a stop of any kind.
"""

from pathlib import Path

import jax
from absl import flags

from cusa_jax import controls
from cusa_jax.command import run

WORKDIR = flags.DEFINE_string("workdir", "runs/controls", "Folder with one folder for each run.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds to train every cell with.")
CELLS = flags.DEFINE_list(
    "cells", [str(cell) for cell in controls.CELLS], "Which of them, such as csa-shuffled."
)


def main(config, _config_name: str) -> None:
    workdir = Path(WORKDIR.value)
    # Seeds share programs.
    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
    cells = [cell for cell in controls.CELLS if str(cell) in CELLS.value]
    results = controls.run(config, [int(seed) for seed in SEEDS.value], workdir, cells)
    if results is not None:
        table = controls.table(results)
        (workdir / "controls.txt").write_text(table + "\n")
        print(table)


if __name__ == "__main__":
    run(main)
