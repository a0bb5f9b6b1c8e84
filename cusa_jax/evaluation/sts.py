"""Semantic textual similarity: STS 2012-2016, STS-Benchmark and SICK-Relatedness by SentEval's protocol.

Each pair of sentences is scored by the cosine of its two features; the metric is Spearman's correlation with
the gold scores. For STS12-16 the published one is over all subsets together ('all', as in SimCSE and the
reference's evaluation_sts.py:110); the mean over subsets, plain and weighted by pairs, and Pearson's come beside
it. STS-B and SICK-R use their test split. Sentences are split at white space and joined by single spaces, with no
other cleaning.

Folder layout, SentEval's: `downstream/STS/STS12-en-test/STS.input.MSRpar.txt` (tab-separated sentences) with
`STS.gs.MSRpar.txt` (a gold score a line, empty where a pair has none), …, `downstream/STS/STSBenchmark/sts-test.csv`
and `downstream/SICK/SICK_test_annotated.txt`.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.evaluation.metrics import Metric
from cusa_jax.evaluation.result import Result, side_by_side
from cusa_jax.evaluation.statistics import Statistic, average, pearson, spearman, within
from cusa_jax.evaluation.suite import Dataset, Evaluation, Suite

SUBSETS = {
    "sts12": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "sts13": ("FNWN", "headlines", "OnWN"),
    "sts14": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "sts15": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "sts16": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
}
TASKS = (*SUBSETS, "stsb", "sickr")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Rated pairs of sentences. first, second: n texts. gold: float64 [n]. dropped: pairs without a gold score."""

    first: list[str]
    second: list[str]
    gold: np.ndarray
    dropped: int = 0


def read_task(root: str | Path, task: str, split: str = "test") -> dict[str, Pairs]:
    """The subsets of a task, by name; `root` is the folder that holds `downstream`, or that folder itself.

    split: of STS-B ('train', 'dev', 'test') and SICK-R ('train', 'trial', 'test'); STS12-16 are tests.
    Raises InputError naming the missing file, or the line that is not what it must be.
    """
    folder = Path(root)
    folder = folder / "downstream" if (folder / "downstream").is_dir() else folder
    if task in SUBSETS:
        files = folder / "STS" / f"STS{task[3:]}-en-test"
        return {
            subset: _input_and_gold(files / f"STS.input.{subset}.txt", files / f"STS.gs.{subset}.txt")
            for subset in SUBSETS[task]
        }
    if task == "stsb":
        return {split: _columns(folder / "STS" / "STSBenchmark" / f"sts-{split}.csv", 5, 6, gold=4)}
    name = "test_annotated" if split == "test" else split
    return {split: _columns(folder / "SICK" / f"SICK_{name}.txt", 1, 2, gold=3, header=True)}


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows, float32 [n]; 0 where a feature is zero or not finite, as in SentEval.

    Computed in float64 and rounded, so that two pairs of identical sentences tie. In SentEval's float32 they differ
    by rounding, which moves its correlations in the third decimal on small subsets.
    """
    first, second = (np.nan_to_num(np.asarray(x, float), posinf=0, neginf=0) for x in (first, second))
    length = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    dot = np.einsum("nd,nd->n", first, second)
    return np.divide(dot, length, out=np.zeros(len(first)), where=length > 0).astype(np.float32)


def task_result(similarity: dict[str, np.ndarray], subsets: dict[str, Pairs]) -> Result:
    """One task's correlations, in percent; units are pairs, resampled within their subset.

    similarity: float [n] of each subset's pairs.
    Keys: '' for Spearman over all pairs together, `pearson`; with several subsets also `mean`, `wmean` and
    `pearson_mean`, `pearson_wmean` over them, and each subset's own Spearman under its name.
    """
    gold = np.concatenate([pairs.gold for pairs in subsets.values()])
    together = np.concatenate([similarity[name] for name in subsets])
    sizes = np.array([len(pairs.gold) for pairs in subsets.values()])
    statistics: dict[str, Statistic] = {"": spearman(together, gold), "pearson": pearson(together, gold)}
    if len(subsets) > 1:
        ends = np.cumsum(sizes)
        for prefix, correlation in (("", spearman), ("pearson_", pearson)):
            parts = [
                within(correlation(similarity[name], pairs.gold), slice(end - len(pairs.gold), end))
                for (name, pairs), end in zip(subsets.items(), ends, strict=True)
            ]
            statistics |= {f"{prefix}mean": average(parts), f"{prefix}wmean": average(parts, sizes)}
            if not prefix:
                statistics |= dict(zip(subsets, parts, strict=True))
    dropped = sum(pairs.dropped for pairs in subsets.values())
    notes = (f"{dropped} pairs have no gold score and are left out",) if dropped else ()
    return Result("pair", tuple(sizes.tolist()), statistics, notes=notes)


def suite_result(tasks: dict[str, Result]) -> Result:
    """All tasks as one suite, with `avg`, the mean of their Spearman correlations, where all seven are there."""
    suite = side_by_side("pair", tasks)
    notes = tuple(f"{task}: {note}" for task, part in tasks.items() for note in part.notes)
    statistics = suite.statistics
    if set(tasks) == set(TASKS):
        statistics = statistics | {"avg": average([statistics[task] for task in TASKS])}
    return dataclasses.replace(suite, statistics=statistics, notes=notes)


def _input_and_gold(texts: Path, gold: Path) -> Pairs:
    rows = [line.split("\t") for line in _lines(texts)]
    scores = _lines(gold)
    # Blank gold scores mean something, but an editor's empty last line does not.
    while len(scores) > len(rows) and not scores[-1].strip():
        scores.pop()
    if len(rows) != len(scores):
        raise InputError(
            f"{texts}: {len(rows)} pairs, but {gold.name} has {len(scores)} scores; they belong to different versions"
        )
    numbered = list(enumerate(zip(rows, scores, strict=True), start=1))
    kept = [(number, row, score) for number, (row, score) in numbered if score.strip()]
    for number, row, _ in kept:
        if len(row) < 2:
            raise InputError(
                f"{texts}: line {number} has no tab: it should be two sentences with a tab between"
            )
    return Pairs(
        [_sentence(row[0]) for _, row, _ in kept],
        [_sentence(row[1]) for _, row, _ in kept],
        np.array([_gold(gold, number, score) for number, _, score in kept]),
        dropped=len(rows) - len(kept),
    )


def _columns(path: Path, first: int, second: int, *, gold: int, header: bool = False) -> Pairs:
    """Tab-separated without quoting: a quotation mark is a character of the sentence."""
    kept, dropped = [], 0
    for number, line in enumerate(_lines(path), start=1):
        row = line.split("\t")
        if number == 1 and header:
            continue
        if len(row) <= max(first, second, gold):
            raise InputError(f"{path}: line {number} has {len(row)} tab-separated columns, too few")
        if row[gold].strip():
            kept.append((_sentence(row[first]), _sentence(row[second]), _gold(path, number, row[gold])))
        else:
            dropped += 1
    if not kept:
        raise InputError(f"{path}: holds no rated pair")
    return Pairs([a for a, _, _ in kept], [b for _, b, _ in kept], np.array([g for *_, g in kept]), dropped)


def _lines(path: Path) -> list[str]:
    """Lines end at a line feed only: sentences hold other characters that Unicode counts as line ends."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; the layout is that of SentEval's get_transfer_data script"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable UTF-8 text ({error})") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _gold(path: Path, number: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}: line {number}: {text.strip()!r} is not a gold score")
    return value


def _run(evaluation: Evaluation) -> Result:
    """Every task whose files are there."""
    root = evaluation.folder(SENTEVAL)
    tasks, missing = {}, []
    for task in TASKS:
        try:
            tasks[task] = read_task(root, task)
        except InputError as error:
            missing.append(f"{task} left out: {error}")
    if not tasks:
        raise InputError(f"{root}: {SENTEVAL.holds}; {missing[0]}")
    pairs = [pair for subsets in tasks.values() for pair in subsets.values()]
    sentences = list(dict.fromkeys(text for pair in pairs for text in (*pair.first, *pair.second)))
    features, head = evaluation.source.sentences(sentences)
    row = {text: n for n, text in enumerate(sentences)}

    def similarity(pair: Pairs) -> np.ndarray:
        first, second = ([row[text] for text in side] for side in (pair.first, pair.second))
        return cosine(features[first], features[second])

    result = suite_result(
        {
            task: task_result({name: similarity(pair) for name, pair in subsets.items()}, subsets)
            for task, subsets in tasks.items()
        }
    )
    return dataclasses.replace(result, head=head, notes=(*result.notes, *missing))


SENTEVAL = Dataset(
    "sts",
    ("senteval", "sts"),
    "it holds downstream/STS/ and downstream/SICK/ as SentEval's get_transfer_data script leaves them",
)
STS = Suite(
    "sts",
    "Semantic textual similarity",
    (SENTEVAL,),
    _run,
    metrics=(
        *(Metric(task, f"STS {task[3:]}") for task in SUBSETS),
        Metric("stsb", "STS-B"),
        Metric("sickr", "SICK-R"),
        Metric("avg", "average"),
    ),
    first=(*TASKS, "avg"),
)
