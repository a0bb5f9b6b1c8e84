"""Is a gain the teachers' knowledge? Each loss with its teachers, with shuffled ones and with ones that know nothing.

A gain that the controls share is label smoothing. All cells see the same data, the same settings and the same seeds;
differences are paired twice, by seed and by test image (an image goes with its captions).
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from cusa_jax import sharding
from cusa_jax.config import LOSSES, with_argument
from cusa_jax.data.splits import Split
from cusa_jax.evaluation.bootstrap import differences
from cusa_jax.evaluation.figures import Figures, average, mean
from cusa_jax.evaluation.ranking import Positives
from cusa_jax.evaluation.recall import recall_figures
from cusa_jax.evaluation.relevance import per_query
from cusa_jax.evaluation.retrieval import EmbeddedSplit, Evaluator
from cusa_jax.experiment import read_split
from cusa_jax.files import written_whole
from cusa_jax.train import train
from cusa_jax.weights.formats import load_model

TEACHERS = {"trained": "none", "shuffled": "shuffled", "uniform": "uniform"}  # name -> teacher.control
EMBEDDINGS = "test_embeddings.npz"  # in the folder of a run, and the sign that it is finished


@dataclasses.dataclass(frozen=True)
class Cell:
    """loss: of `config.LOSSES`. teachers: of TEACHERS; '' for the contrastive loss, which has none."""

    loss: str
    teachers: str = ""

    def __str__(self) -> str:
        return f"{self.loss}-{self.teachers}" if self.teachers else self.loss


BASELINE = Cell("contrastive")
CELLS = (
    BASELINE,
    *(Cell(loss, teachers) for loss in LOSSES if loss != BASELINE.loss for teachers in TEACHERS),
)
Found = Mapping[Cell, Sequence[Figures]]  # one for each seed


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean difference over S seeds, and two 95 % intervals of it.

    by_seed: Student's t over the S differences, each of two runs with one seed: would other seeds show it?
    by_image: bootstrap over test images of the mean over these very seeds: would other images show it?
    """

    mean: float
    by_seed: tuple[float, float]
    by_image: tuple[float, float]


def run(
    config: ConfigDict, seeds: Sequence[int], workdir: Path, cells: Sequence[Cell] = CELLS
) -> Found | None:
    """Trains every cell with every seed under `config`, in workdir/CELL-SEED; what is finished is not repeated.

    Returns None where SIGTERM or SIGINT asked to stop; the same call continues.
    """
    todo = [(seed, cell) for seed in seeds for cell in cells]  # every cell once before any twice
    trained, start = 0, time.monotonic()
    for number, (seed, cell) in enumerate(todo, start=1):
        folder = workdir / f"{cell}-{seed}"
        if (folder / EMBEDDINGS).is_file():
            continue
        elapsed = time.monotonic() - start
        left = f", {elapsed / trained * (len(todo) - number + 1) / 60:.0f} min left" if trained else ""
        print(f"--- run {number} of {len(todo)}: {cell}, seed {seed}{left}", flush=True)
        own = cell_config(config, cell, seed)
        if train(own, folder) is None:
            return None
        _embed(own, folder)
        trained += 1
        jax.clear_caches()  # the programs of one cell serve no other; the same cell's come from the disk's cache
    model, _ = load_model(workdir / f"{cells[0]}-{seeds[0]}")
    split = read_split(config, "test", model.clip)
    return {cell: [figures(_embedded(workdir / f"{cell}-{seed}"), split) for seed in seeds] for cell in cells}


def cell_config(config: ConfigDict, cell: Cell, seed: int) -> ConfigDict:
    """The configuration of one run. The contrastive cell does without teachers, which would only cost time."""
    own = ConfigDict(config.to_dict())
    own.seed = seed
    with_argument(own, f"loss={cell.loss}")
    if cell.teachers:
        own.teacher.control = TEACHERS[cell.teachers]
    else:
        own.teacher.update(image="", text="", control="none")
    own.checkpoint.keep = 1
    return own


def figures(embedded: EmbeddedSplit, split: Split) -> Figures:
    """'r_mean' and, where exact relevance is known, 'map_at_r', both ways averaged; units are images."""
    scores, group = embedded.scores, embedded.caption_image(split)
    images = len(embedded.images)
    statistics = {"r_mean": recall_figures(scores, group).statistics["r_mean"]}
    if (relevant := embedded.relevance(split)) is not None:
        captions_of, images_of = Positives.of_matrix(relevant.T), Positives.of_matrix(relevant)
        i2t = scores.image_to_text(captions_of, depth=captions_of.most)
        t2i = scores.text_to_image(images_of, depth=images_of.most)
        units = {"i2t": (i2t, i2t.queries), "t2i": (t2i, group[t2i.queries])}
        statistics["map_at_r"] = average(
            [mean(per_query(way)["map_at_r"], unit, units=images, scale=100) for way, unit in units.values()]
        )
    return Figures("image", (images,), statistics)


def difference(first: Sequence[Figures], second: Sequence[Figures], name: str) -> Difference:
    """Second minus first in one figure; each is a list over the same seeds, of the same images."""
    by_seed = np.array([b.values()[name] - a.values()[name] for a, b in zip(first, second, strict=True)])
    seeds = len(by_seed)
    margin = stats.t.ppf(0.975, seeds - 1) * by_seed.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else np.inf
    found = differences(_over_seeds(first), _over_seeds(second))[name]
    return Difference(found.value, (found.value - margin, found.value + margin), (found.low, found.high))


def _over_seeds(runs: Sequence[Figures]) -> Figures:
    """The mean of each figure over runs, as a figure of the same images."""
    names = runs[0].statistics
    return dataclasses.replace(
        runs[0], statistics={n: average([r.statistics[n] for r in runs]) for n in names}
    )


def table(found: Found) -> str:
    """Every cell as mean ± standard deviation over seeds, then the differences with their intervals."""
    names = list(next(iter(found.values()))[0].statistics)
    lines = [f"{'test, %':<20}" + "".join(f"{name:>18}" for name in names)]
    for cell, runs in found.items():
        values = [np.array([run.values()[name] for run in runs]) for name in names]
        told = [f"{v.mean():.2f} ± {v.std(ddof=1) if len(v) > 1 else np.nan:.2f}" for v in values]
        lines.append(f"{cell!s:<20}" + "".join(f"{text:>18}" for text in told))
    for name in names:
        lines += ["", f"{name + ', difference':<32}{'mean':>8}{'95 % by seed':>20}{'95 % by image':>20}"]
        for first, second in _contrasts(found):
            d = difference(found[first], found[second], name)
            told = [f"{low:+.2f} … {high:+.2f}" for low, high in (d.by_seed, d.by_image)]
            lines.append(f"{f'{second} − {first}':<32}{d.mean:>+8.2f}{told[0]:>20}{told[1]:>20}")
    lines += ["", "by seed: t interval over paired runs; by image: bootstrap over test images, these seeds."]
    return "\n".join(lines)


def _contrasts(found: Found) -> list[tuple[Cell, Cell]]:
    """(first, second): every cell against the baseline, and teachers that know against those that do not."""
    against_baseline = [(BASELINE, cell) for cell in found if cell != BASELINE]
    against_controls = [
        (Cell(cell.loss, control), cell)
        for cell in found
        if cell.teachers == "trained"
        for control in ("shuffled", "uniform")
    ]
    return [pair for pair in against_baseline + against_controls if pair[0] in found]


def _embed(config: ConfigDict, folder: Path) -> None:
    """Writes the test split's embeddings by a finished run, and drops what only its continuation would need."""
    model, variables = load_model(folder)
    mesh = sharding.make_mesh(config.sharding.fsdp)
    evaluator = Evaluator(model, mesh, config)
    embedded = evaluator.embed(sharding.put_params(variables, mesh), read_split(config, "test", model.clip))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    with written_whole(folder / EMBEDDINGS) as fresh, fresh.open("wb") as file:
        np.savez(file, **dataclasses.asdict(embedded))


def _embedded(folder: Path) -> EmbeddedSplit:
    with np.load(folder / EMBEDDINGS, allow_pickle=False) as arrays:
        return EmbeddedSplit(**arrays)
