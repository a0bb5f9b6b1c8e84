"""Trains every loss with its teachers, shuffled teachers and teachers that know nothing, and compares.

python scripts/controls.py --config=configs/demo.py --config.schedule.epochs=1 [--workdir=runs/controls] [--seeds=0,1,2]

Run it again to continue after a stop of any kind.
"""

import re
from pathlib import Path

import jax
from absl import flags

from cusa_jax import controls
from cusa_jax.command import run
from cusa_jax.config import nearest
from cusa_jax.errors import InputError

WORKDIR = flags.DEFINE_string("workdir", "runs/controls", "Folder with one folder for each run.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds to train every cell with.")
CELLS = flags.DEFINE_list(
    "cells", [str(cell) for cell in controls.CELLS], "Which of them, such as csa-shuffled."
)


def main(config, _config_name: str) -> None:
    workdir = Path(WORKDIR.value)
    # Seeds share programs.
    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
    results = controls.run(config, _seeds(), workdir, _cells())
    if results is not None:
        table = controls.table(results)
        (workdir / "controls.txt").write_text(table + "\n")
        print(table)


def _seeds() -> list[int]:
    if wrong := [seed for seed in SEEDS.value if not re.fullmatch("[0-9]{1,9}", seed)]:
        raise InputError(f"--seeds: '{wrong[0]}' is no whole number below a billion")
    return list(dict.fromkeys(map(int, SEEDS.value)))


def _cells() -> list[controls.Cell]:
    known = {str(cell): cell for cell in controls.CELLS}
    for name in CELLS.value:
        if name not in known:
            raise InputError(f"--cells: '{name}' is none of {', '.join(known)}{nearest(name, known)}")
    return [cell for name, cell in known.items() if name in CELLS.value]


if __name__ == "__main__":
    run(main)
