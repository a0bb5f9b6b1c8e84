"""What a suite is: a protocol with the data that it needs, as one value; and what it is run on.

A suite stands at the end of the file of its protocol and in the table of `suites.py`. A program of one's own adds
one by `SUITES[suite.name] = suite`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.splits import CaptionedImages, read_split
from cusa_jax.errors import InputError
from cusa_jax.evaluation.metrics import Metric
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.sources import Captioned, EmbeddingSource


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Where data lie. folders: its possible names under the root. holds: what is in it, for messages.

    select: the test split of a caption table that may hold more.
    own: one's own, as `CaptionedImages.own`.
    """

    name: str
    folders: tuple[str, ...]
    holds: str
    select: Callable[[CaptionTable], CaptionTable] = lambda table: table
    own: bool = False

    def captions(self, path: str | Path, split: str = "test", image_root: str = "") -> CaptionedImages:
        """A split of it that lies at `path`. Raises InputError as `read_split`."""
        read = read_split(path, split, image_root)
        return dataclasses.replace(read.select(self.select) if split == "test" else read, own=self.own)


@dataclasses.dataclass(frozen=True)
class Suite:
    """A protocol by its name. run: the evaluation -> its result; raises InputError where it cannot be run.

    data: the datasets that it reads. metrics: those of its own, beyond `metrics.METRICS`.
    first: keys of what is read first, where there is too much to read; () is all.
    images: how many the paper's test set has, for other data are no comparison; None where the paper has no such
        suite.
    """

    name: str
    title: str
    data: tuple[Dataset, ...]
    run: Callable[[Evaluation], Result]
    metrics: tuple[Metric, ...] = ()
    first: tuple[str, ...] = ()
    images: int | None = None


class Folders:
    """Where the datasets of some suites are: under a root, but for those that lie elsewhere.

    elsewhere: {name of a dataset: its folder}. Raises InputError for a name that is no dataset's.
    """

    def __init__(self, suites: Iterable[Suite], root: str = "", elsewhere: Mapping[str, str] | None = None):
        self._root, self._elsewhere = Path(root) if root else None, dict(elsewhere or {})
        names = {dataset.name: None for suite in suites for dataset in suite.data}
        if unknown := sorted(self._elsewhere.keys() - names.keys()):
            raise InputError(f"--data: no dataset is called '{unknown[0]}'; they are {', '.join(names)}")

    def folder(self, dataset: Dataset) -> Path:
        """The dataset's folder. Raises InputError where there is none, saying where it should be."""
        if dataset.name in self._elsewhere:
            return Path(self._elsewhere[dataset.name])
        if self._root is None:
            raise InputError(f"--data names no folder for {dataset.name}")
        candidates = [self._root / name for name in dataset.folders]
        for candidate in candidates:
            if candidate.is_dir():
                return candidate
        raise InputError(f"{' or '.join(map(str, candidates))}: no such folder; {dataset.holds}")


class Evaluation:
    """One source of embeddings on the data at hand; what two suites share is embedded once, or found missing once."""

    def __init__(self, source: EmbeddingSource, folders: Folders):
        self.source, self._folders = source, folders
        self._captioned: dict[str, Captioned | InputError] = {}

    def folder(self, dataset: Dataset) -> Path:
        """As `Folders.folder`."""
        return self._folders.folder(dataset)

    def captioned(self, dataset: Dataset) -> Captioned:
        """The images and captions of a dataset's test split, embedded. Raises InputError as reading and embedding."""
        if dataset.name not in self._captioned:
            try:
                self._captioned[dataset.name] = self._embedded(dataset)
            except InputError as error:
                self._captioned[dataset.name] = error
        outcome = self._captioned[dataset.name]
        if isinstance(outcome, InputError):
            raise outcome
        return outcome

    def _embedded(self, dataset: Dataset) -> Captioned:
        split = dataset.captions(self.folder(dataset)) if self.source.needs_data else None
        return self.source.captioned(dataset.name, split)
