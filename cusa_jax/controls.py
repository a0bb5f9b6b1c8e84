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
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from cusa_jax import finish, sharding
from cusa_jax.config import LOSSES, typed, with_argument
from cusa_jax.data.splits import Split
from cusa_jax.evaluation.bootstrap import differences
from cusa_jax.evaluation.ranking import Positives
from cusa_jax.evaluation.recall import recall_result
from cusa_jax.evaluation.relevance import per_query
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.retrieval import Evaluator, ScoredSplit
from cusa_jax.evaluation.scores import InnerProducts, Matrix, Scores
from cusa_jax.evaluation.statistics import average, percent
from cusa_jax.experiment import read_split
from cusa_jax.files import written_whole
from cusa_jax.weights.formats import load_model

# Name -> teacher.control.
TEACHERS = {"trained": "none", "shuffled": "shuffled", "uniform": "uniform"}
# In the folder of a run, and the sign that it is finished.
EMBEDDINGS = "test_embeddings.npz"


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
# A result for each seed.
CellResults = Mapping[Cell, Sequence[Result]]


@dataclasses.dataclass(frozen=True)
class SeedDifference:
    """Mean difference over S seeds, and two 95 % intervals of it.

    by_seed: Student's t over the S differences, each of two runs with one seed: would other seeds show it?
    by_image: bootstrap over test images of the mean over these very seeds: would other images show it?
    """

    mean: float
    by_seed: tuple[float, float]
    by_image: tuple[float, float]


def run(
    config: ConfigDict, seeds: Sequence[int], workdir: Path, cells: Sequence[Cell] = CELLS
) -> CellResults | None:
    """Trains every cell with every seed under `config`, in workdir/CELL-SEED; what is finished is not repeated.

    Returns None where SIGTERM or SIGINT asked to stop; the same call continues.
    """
    # Every cell once before any twice.
    todo = [(seed, cell) for seed in seeds for cell in cells]
    trained, start = 0, time.monotonic()
    for number, (seed, cell) in enumerate(todo, start=1):
        folder = workdir / f"{cell}-{seed}"
        if (folder / EMBEDDINGS).is_file():
            continue
        elapsed = time.monotonic() - start
        left = f", {elapsed / trained * (len(todo) - number + 1) / 60:.0f} min left" if trained else ""
        print(f"--- run {number} of {len(todo)}: {cell}, seed {seed}{left}", flush=True)
        own = cell_config(config, cell, seed)
        if finish.run(own, folder) is None:
            return None
        _embed(own, folder)
        trained += 1
        # The programs of one cell serve no other; the same cell's come from the disk's cache.
        jax.clear_caches()
    student, _ = load_model(workdir / f"{cells[0]}-{seeds[0]}")
    split = read_split(typed(config), "test", student.inputs)
    return {cell: [result(_scored(workdir / f"{cell}-{seed}"), split) for seed in seeds] for cell in cells}


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


def result(scored: ScoredSplit, split: Split) -> Result:
    """'r_mean' and, where exact relevance is known, 'map_at_r', both ways averaged; units are images."""
    scores, group = scored.scores, scored.caption_image(split)
    images = len(scored.images)
    statistics = {"r_mean": recall_result(scores, group).statistics["r_mean"]}
    if (relevant := scored.relevance(split)) is not None:
        captions_of, images_of = Positives.of_matrix(relevant.T), Positives.of_matrix(relevant)
        i2t = scores.rank("i2t", captions_of, depth=captions_of.most)
        t2i = scores.rank("t2i", images_of, depth=images_of.most)
        units = ((i2t, i2t.queries), (t2i, group[t2i.queries]))
        statistics["map_at_r"] = average(
            [percent(per_query(way)["map_at_r"], unit, units=images) for way, unit in units]
        )
    return Result("image", (images,), statistics)


def difference(first: Sequence[Result], second: Sequence[Result], metric: str) -> SeedDifference:
    """Second minus first in one metric; each is a list over the same seeds, of the same images."""
    by_seed = np.array([b.values()[metric] - a.values()[metric] for a, b in zip(first, second, strict=True)])
    seeds = len(by_seed)
    margin = stats.t.ppf(0.975, seeds - 1) * by_seed.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else np.inf
    by_image = differences(_over_seeds(first), _over_seeds(second))[metric]
    middle = by_image.value
    return SeedDifference(middle, (middle - margin, middle + margin), (by_image.low, by_image.high))


def _over_seeds(runs: Sequence[Result]) -> Result:
    """The mean of each metric over runs, as a metric of the same images."""
    statistics = {key: average([run.statistics[key] for run in runs]) for key in runs[0].statistics}
    return dataclasses.replace(runs[0], statistics=statistics)


def table(results: CellResults) -> str:
    """Every cell as mean ± standard deviation over seeds, then the differences with their intervals."""
    metrics = list(next(iter(results.values()))[0].statistics)
    lines = [f"{'test, %':<20}" + "".join(f"{metric:>18}" for metric in metrics)]
    for cell, runs in results.items():
        values = [np.array([run.values()[metric] for run in runs]) for metric in metrics]
        columns = [f"{v.mean():.2f} ± {v.std(ddof=1) if len(v) > 1 else np.nan:.2f}" for v in values]
        lines.append(f"{cell!s:<20}" + "".join(f"{text:>18}" for text in columns))
    for metric in metrics:
        lines += ["", f"{metric + ', difference':<32}{'mean':>8}{'95 % by seed':>20}{'95 % by image':>20}"]
        for first, second in _contrasts(results):
            d = difference(results[first], results[second], metric)
            seed, image = (f"{low:+.2f} … {high:+.2f}" for low, high in (d.by_seed, d.by_image))
            lines.append(f"{f'{second} − {first}':<32}{d.mean:>+8.2f}{seed:>20}{image:>20}")
    lines += ["", "by seed: t interval over paired runs; by image: bootstrap over test images, these seeds."]
    return "\n".join(lines)


def _contrasts(results: CellResults) -> list[tuple[Cell, Cell]]:
    """(first, second): every cell against the baseline, and teachers that know against those that do not."""
    against_baseline = [(BASELINE, cell) for cell in results if cell != BASELINE]
    against_controls = [
        (Cell(cell.loss, control), cell)
        for cell in results
        if cell.teachers == "trained"
        for control in ("shuffled", "uniform")
    ]
    return [pair for pair in against_baseline + against_controls if pair[0] in results]


def _embed(config: ConfigDict, folder: Path) -> None:
    """Writes the test split's embeddings by a finished run, and drops what only its continuation would need."""
    student, variables = load_model(folder)
    mesh = sharding.make_mesh(config.sharding.fsdp)
    evaluator = Evaluator(student, mesh, config)
    split = read_split(typed(config), "test", student.inputs)
    scored = evaluator.score(sharding.put_params(variables, mesh), split)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    with written_whole(folder / EMBEDDINGS) as fresh, fresh.open("wb") as file:
        np.savez(file, images=scored.images, captions=scored.captions, **_arrays(scored.scores))


def _arrays(scores: Scores) -> dict[str, Any]:
    """Embeddings where there are any; else the scores, which take more room."""
    if isinstance(scores, InnerProducts):
        return {"image": scores.images, "text": scores.texts}
    return {"scores": scores.rows("i2t", np.arange(scores.shape[0]))}


def _scored(folder: Path) -> ScoredSplit:
    with np.load(folder / EMBEDDINGS, allow_pickle=False) as arrays:
        scores = (
            Matrix(arrays["scores"]) if "scores" in arrays else InnerProducts(arrays["image"], arrays["text"])
        )
        return ScoredSplit(arrays["images"], arrays["captions"], scores)
