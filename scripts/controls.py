"""Trains every loss with its teachers, shuffled teachers and teachers that know nothing, and compares.

python scripts/controls.py --config=configs/demo.py --config.schedule.epochs=1 [--workdir=runs/controls] [--seeds=0,1,2]

Any config and data. Other settings of the same are recipes with names:

    --recipe='sharp: loss.csa.teacher_tau.image.init=0.1 loss.csa.teacher_tau.text.init=0.1' \
    --cells=baseline,cusa-trained,sharp.cusa-trained,sharp.cusa-shuffled

A recipe is compared with its own baseline (sharp.baseline) where that is among the cells, else with the plain one.
Writes controls.txt, the table; controls.png, the effects; controls.html, both, and with --judgements photographs on
which the models part. Run it again to continue after a stop of any kind.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from cusa_jax.command import define_list, run
from cusa_jax.compiled import keep_compiled
from cusa_jax.controls import cells, neighbours, runs, table
from cusa_jax.controls.cells import Cell
from cusa_jax.controls.contrasts import Measured
from cusa_jax.controls.figures import captioned, measure
from cusa_jax.errors import InputError
from cusa_jax.evaluation.human import Judged, Rated, rated
from cusa_jax.files import written_whole
from cusa_jax.report import controls as report
from cusa_jax.workdir import COMPILED

WORKDIR = flags.DEFINE_string("workdir", "runs/controls", "Folder with one folder for each run.")
SEEDS = define_list("seeds", ["0", "1", "2"], "Seeds to train every cell with.")
RECIPES = flags.DEFINE_multi_string(
    "recipe", [], "NAME: KEY=VALUE KEY=VALUE, of the configuration; repeat it."
)
CELLS = define_list(
    "cells",
    [str(cell) for cell in cells.CELLS],
    "Which to train, such as csa-shuffled or RECIPE.csa-shuffled.",
)
SPLIT = flags.DEFINE_enum(
    "split", "test", ["val", "test"], "The split to compare on; choose settings on val."
)
JUDGEMENTS = flags.DEFINE_string(
    "judgements",
    "",
    "Folder with Flickr8k's human judgements of the split's photographs, and the photographs.",
)


def main(config, _config_name: str) -> None:
    workdir = Path(WORKDIR.value)
    recipes = cells.read_recipes(RECIPES.value)
    chosen = list(dict.fromkeys(cells.read_cell(name, recipes) for name in CELLS.value))
    # What takes no time is found missing first.
    judged = Judged.read(Path(JUDGEMENTS.value)) if JUDGEMENTS.value else None
    seeds = _seeds()
    if config.compiled:
        # Seeds share programs.
        keep_compiled(workdir / COMPILED)
    if not runs.run(config, seeds, workdir, chosen, recipes, SPLIT.value):
        return
    split = runs.kept_split(config, runs.run_folder(workdir, chosen[0], seeds[0]), SPLIT.value)
    measured: dict[Cell, Measured] = {}
    ratings: dict[Cell, list[Rated]] = {}
    for cell in chosen:
        scored = [runs.kept_scores(runs.run_folder(workdir, cell, seed), SPLIT.value) for seed in seeds]
        measured[cell] = Measured([measure(one, split, judged) for one in scored])
        if judged:
            ratings[cell] = [rated(captioned(one, split), judged.experts) for one in scored]
    text = table.text(measured, SPLIT.value)
    if ratings:
        text += "\n\n" + neighbours.text(ratings)
    with written_whole(workdir / "controls.txt") as fresh:
        fresh.write_text(text + "\n", "utf-8")
    print(text)
    drawn = report.effects(measured, workdir / "controls.png")
    captions = [split.table.captions[row] for row in np.asarray(scored[0].captions).tolist()]
    moved, pairs = _parted(ratings, captions)
    picture = workdir / "controls.png" if drawn else None
    report.write(workdir / "controls.html", text, picture, pairs, moved)
    print(f"report: {workdir / 'controls.html'}")


def _parted(
    ratings: Mapping[Cell, list[Rated]], captions: Sequence[str]
) -> tuple[Cell | None, dict[str, list[report.Parted]]]:
    """The last cell with its teachers, and the pairs that it moves furthest from where its baseline has them."""
    cell = next((cell for cell in reversed(list(ratings)) if cell.teachers == "trained"), None)
    own = Cell(recipe=cell.recipe) if cell else cells.BASELINE
    baseline = own if own in ratings else cells.BASELINE
    if cell is None or baseline not in ratings:
        return None, {}
    return cell, report.parted(ratings[baseline], ratings[cell], captions, Path(JUDGEMENTS.value))


def _seeds() -> list[int]:
    if wrong := [seed for seed in SEEDS.value if not re.fullmatch("[0-9]{1,9}", seed)]:
        raise InputError(f"--seeds: '{wrong[0]}' is no whole number below a billion")
    return list(dict.fromkeys(map(int, SEEDS.value)))


if __name__ == "__main__":
    run(main)
