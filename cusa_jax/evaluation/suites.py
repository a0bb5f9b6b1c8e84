"""The suites of the paper's tables: which data each needs, where it lies, and which figures come of it.

Data lie under one folder, `ROOT`, each dataset in its own (README: Evaluation); `coco=PATH` names one elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cusa_jax.data.captions import read_captions
from cusa_jax.data.labelled_images import LabelledImages, read_cub, read_inat, read_inshop, read_sop
from cusa_jax.errors import InputError
from cusa_jax.evaluation import cxc, eccv, image_retrieval, sts
from cusa_jax.evaluation.figures import Figures, side_by_side
from cusa_jax.evaluation.recall import fold_figures, recall_figures
from cusa_jax.evaluation.sources import Captioned, Source

FOLDERS = {
    "flickr30k": ("flickr30k",),
    "coco": ("coco",),
    "cxc": ("cxc",),
    "cub": ("cub",),
    "sop": ("sop",),
    "inshop": ("inshop",),
    "inat": ("inat", "inaturalist"),
    "sts": ("senteval", "sts"),
}


class Data:
    """Where the datasets are. Raises InputError for a name that is no dataset's."""

    def __init__(self, root: str = "", elsewhere: Mapping[str, str] | None = None):
        self._root, self._elsewhere = Path(root) if root else None, dict(elsewhere or {})
        if unknown := sorted(self._elsewhere.keys() - FOLDERS.keys()):
            raise InputError(f"--data: no dataset is called '{unknown[0]}'; they are {', '.join(FOLDERS)}")

    def folder(self, dataset: str) -> Path:
        """The dataset's folder. Raises InputError where there is none, saying where it should be."""
        if dataset in self._elsewhere:
            return Path(self._elsewhere[dataset])
        if self._root is None:
            raise InputError(f"--data names no folder for {dataset}")
        candidates = [self._root / name for name in FOLDERS[dataset]]
        for candidate in candidates:
            if candidate.is_dir():
                return candidate
        raise InputError(f"{' or '.join(map(str, candidates))}: no such folder; {_WHAT[dataset]}")


_WHAT = {
    "flickr30k": "it holds Karpathy's dataset_flickr30k.json and the images of flickr30k-images/",
    "coco": "it holds Karpathy's dataset_coco.json or COCO's captions_val2014.json, and the images of val2014/",
    "cxc": "it holds sts_test.csv, sis_test.csv and sits_test.csv of Crisscrossed-Captions",
    "cub": "it holds CUB_200_2011/images/ (Caltech-UCSD Birds-200-2011)",
    "sop": "it holds Stanford_Online_Products/ with Ebay_test.txt",
    "inshop": "it holds Eval/list_eval_partition.txt and Img/ (DeepFashion, In-Shop)",
    "inat": "it holds Inat_dataset_splits/Inaturalist_test_set1.txt and train_val2018/ (iNaturalist 2018)",
    "sts": "it holds downstream/STS/ and downstream/SICK/ as SentEval's get_transfer_data script leaves them",
}


class Suites:
    """Runs suites for one source; what two suites share is embedded once, or found missing once."""

    def __init__(self, source: Source, data: Data):
        self._source, self._data = source, data
        self._captioned: dict[str, Captioned | InputError] = {}

    def run(self, suite: str) -> Figures:
        """The figures of one of `SUITES`. Raises InputError where data are missing or not what they must be."""
        return SUITES[suite](self)

    def flickr30k(self) -> Figures:
        return self._recall("flickr30k", "flickr30k")

    def coco5k(self) -> Figures:
        return self._recall("coco5k", "coco")

    def coco1k(self) -> Figures:
        """Folds in Karpathy's order: by COCO's ids where the captions have them, else in the order of the file."""
        found = self._captions("coco")
        order = np.arange(found.scores.shape[0])
        notes: tuple[str, ...] = ("folds follow the order of the file",)
        if found.caption_ids is not None and found.image_ids:
            here = eccv.gallery(found.image_ids, found.caption_ids)
            if len(here.images) == len(order):
                order, notes = here.images, ()
        place = np.argsort(order)[found.caption_image]
        scores = found.scores.take(order, np.arange(len(place)))
        figures = fold_figures(scores, place, label="coco1k")
        return dataclasses.replace(figures, head=found.cross_head, notes=(*notes, *figures.notes))

    def eccv(self) -> Figures:
        found = self._captions("coco")
        here = eccv.gallery(found.image_ids, found.caption_ids)
        figures = eccv.eccv_figures(found.scores, here, label="eccv")
        return dataclasses.replace(figures, head=found.cross_head)

    def cxc(self) -> Figures:
        """Recalls with CxC's positives; graded similarity too where the ratings are there."""
        found = self._captions("coco")
        here = eccv.gallery(found.image_ids, found.caption_ids)
        parts = {"": eccv.recall_figures(found.scores, here, label="cxc")}
        head = found.cross_head
        try:
            folder = self._data.folder("cxc")
            ratings = {kind: cxc.read_ratings(folder, kind) for kind in cxc.COLUMNS}
        except InputError as error:
            return dataclasses.replace(
                parts[""], head=head, notes=(*parts[""].notes, f"no graded similarity: {error}")
            )
        if found.uni_image is None or found.uni_text is None or found.scores.texts is None:
            raise InputError("graded similarity needs embeddings, not scores")
        parts["spearman"] = cxc.graded_figures(
            ratings,
            caption_ids=np.asarray(found.caption_ids),
            image_ids=np.array([eccv.coco_id(name) for name in found.image_ids]),
            text=found.uni_text,
            image=found.uni_image,
            cross_text=found.scores.texts,
            cross_image=found.scores.images,
        )
        return side_by_side("image or pair", parts, head=f"{head}; within a modality {found.uni_head}")

    def cub(self) -> Figures:
        return self._leave_one_out("cub", read_cub)

    def sop(self) -> Figures:
        return self._leave_one_out("sop", read_sop)

    def inat(self) -> Figures:
        return self._leave_one_out("inat", read_inat)

    def inshop(self) -> Figures:
        images = read_inshop(self._data.folder("inshop")) if self._source.needs_data else (None, None)
        query, gallery = (
            self._source.labelled("inshop", part, name)
            for name, part in zip(("query", "gallery"), images, strict=True)
        )
        figures = image_retrieval.query_gallery(
            query.features, query.labels, gallery.features, gallery.labels, label="inshop"
        )
        return dataclasses.replace(figures, head=query.head)

    def sts(self) -> Figures:
        """Every task whose files are there."""
        root = self._data.folder("sts")
        tasks, missing = {}, []
        for task in sts.TASKS:
            try:
                tasks[task] = sts.read_task(root, task)
            except InputError as error:
                missing.append(f"{task} left out: {error}")
        if not tasks:
            raise InputError(f"{root}: {_WHAT['sts']}; {missing[0]}")
        pairs = [pair for subsets in tasks.values() for pair in subsets.values()]
        sentences = list(dict.fromkeys(text for pair in pairs for text in (*pair.first, *pair.second)))
        features, head = self._source.sentences(sentences)
        row = {text: n for n, text in enumerate(sentences)}

        def similarity(pair: sts.Pairs) -> np.ndarray:
            first, second = ([row[text] for text in side] for side in (pair.first, pair.second))
            return sts.cosine(features[first], features[second])

        figures = sts.suite_figures(
            {
                task: sts.task_figures({name: similarity(pair) for name, pair in subsets.items()}, subsets)
                for task, subsets in tasks.items()
            }
        )
        return dataclasses.replace(figures, head=head, notes=(*figures.notes, *missing))

    def _recall(self, suite: str, dataset: str) -> Figures:
        found = self._captions(dataset)
        figures = recall_figures(found.scores, found.caption_image, label=suite)
        return dataclasses.replace(figures, head=found.cross_head)

    def _leave_one_out(self, name: str, read: Callable[[Path], LabelledImages]) -> Figures:
        images = read(self._data.folder(name)) if self._source.needs_data else None
        found = self._source.labelled(name, images)
        figures = image_retrieval.leave_one_out(found.features, found.labels, label=name)
        return dataclasses.replace(figures, head=found.head)

    def _captions(self, dataset: str) -> Captioned:
        if dataset not in self._captioned:
            try:
                self._captioned[dataset] = self._embedded(dataset)
            except InputError as error:
                self._captioned[dataset] = error
        found = self._captioned[dataset]
        if isinstance(found, InputError):
            raise found
        return found

    def _embedded(self, dataset: str) -> Captioned:
        table = None
        if self._source.needs_data:
            table = read_captions(self._data.folder(dataset), "test")
            table = eccv.karpathy_test(table) if dataset == "coco" else table
        return self._source.captioned(dataset, table)


SUITES: dict[str, Callable[[Suites], Figures]] = {
    name: getattr(Suites, name)
    for name in ("flickr30k", "coco5k", "coco1k", "eccv", "cxc", "cub", "sop", "inshop", "inat", "sts")
}
