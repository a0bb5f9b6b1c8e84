"""From a dataset's files to splits ready for the encoders: cleaned, tokenised, exact relevance where it is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from absl import logging

from cusa_jax.data import world
from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.captions import clean_captions, read_table
from cusa_jax.data.layouts import find_captions
from cusa_jax.data.layouts.prepared import is_prepared
from cusa_jax.data.shares import fewer, part
from cusa_jax.data.sources import ImageFiles, ImageSource, as_shown, selected
from cusa_jax.data.tokenize import fitted, tokenizer
from cusa_jax.errors import InputError, listed
from cusa_jax.inputs import Inputs

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Split:
    """A split ready for the encoders.

    captions: the cleaned texts, as the teacher reads them. tokens: int32 [N, L] ids of the student's
    vocabulary. relevance: bool [N, M] or None, whether image m satisfies caption n, annotated or not.
    images: the M images.
    """

    table: CaptionTable
    captions: list[str]
    tokens: np.ndarray
    relevance: np.ndarray | None
    images: ImageSource


@dataclasses.dataclass(frozen=True)
class CaptionedImages:
    """A split as it lies on the disk: its table, and its images as what any model takes.

    own: of one's own, which a model sees as it saw its training's (`data.as_shown`); not as the paper's code sees all.
    """

    table: CaptionTable
    images: Callable[[Inputs], ImageSource]
    own: bool = False

    def select(self, of: Callable[[CaptionTable], CaptionTable]) -> CaptionedImages:
        """The part of it that `of` leaves of its table, whose images keep their ids."""
        table, place = of(self.table), {image: n for n, image in enumerate(self.table.image_ids)}
        if table is self.table:
            return self
        numbers = np.array([place[image] for image in table.image_ids])
        return CaptionedImages(table, lambda inputs: selected(self.images(inputs), numbers), self.own)


def read_split(path: str | Path, split: str, image_root: str = "", shares: str = "") -> CaptionedImages:
    """A split of the dataset at `path`, whoever is to see it. Raises InputError as `read_table` and `part`."""
    stored = "train" if shares else split
    file = find_captions(Path(path), stored)
    table, layout = read_table(file, stored, image_root)
    whole = CaptionedImages(table, lambda inputs: layout.opens(file, stored, table, inputs)[0])
    return whole.select(lambda table: part(table, split, shares)[0]) if shares else whole


def provide(path: str, world_sizes: Mapping[str, int], shares: str = "") -> None:
    """Sees to it that there are three splits at `path`, before anything that takes long.

    world_sizes: images a split of the embedded world, which is written there where it has training images; a
    prepared folder of it does as well. shares: as in `load_split`. Raises InputError where the captions of a split
    are missing.
    """
    if world_sizes["train"] and not is_prepared(path):
        world.write(Path(path), sizes=dict(world_sizes))
    if shares and is_prepared(path):
        raise InputError(f"{path}: was divided when it was prepared; leave config.data.split='{shares}' out")
    for split in SPLITS[:1] if shares else SPLITS:
        find_captions(Path(path), split)


def load_split(
    path: str | Path,
    split: str,
    inputs: Inputs,
    *,
    image_root: str,
    shares: str = "",
    shown: bool = False,
    images: int = 0,
) -> Split:
    """Reads `split` of the dataset at `path`; `{split}_relevance.npy` beside it is used where it is there.

    inputs: of the model; the tokens are its own.
    shares: '' or how the training captions are divided by image into all splits (shares.py).
    images: above 0, only so many of them are kept.
    shown: pictures are seen as viewers show them (`open_image`).
    Raises InputError for whatever is wrong with the files, and where what is stored in them was made for other inputs.
    """
    stored = "train" if shares else split
    file = find_captions(Path(path), stored)
    table, layout = read_table(file, stored, image_root)
    source, tokens = layout.opens(file, stored, table, inputs)
    source = as_shown(source, shown)
    relevance = _relevance(file.parent / f"{stored}_relevance.npy", table)
    cuts = [lambda table: part(table, split, shares)] if shares else []
    cuts += [lambda table: fewer(table, split, images)] if images else []
    for cut_to in cuts:
        table, image_numbers, rows = cut_to(table)
        source = selected(source, image_numbers)
        tokens = None if tokens is None else tokens[rows]
        relevance = None if relevance is None else relevance[np.ix_(rows, image_numbers)]
    captions = clean_captions(table.captions)
    if tokens is None:
        tokens, cut = tokenizer(inputs.text)(captions if inputs.text.cleaned else table.captions)
        if cut:
            logging.warning("%s: %d captions over %d tokens were cut", split, cut, inputs.text.length)
    return Split(table, captions, fitted(tokens, inputs.text), relevance, source)


def check_disjoint(splits: dict[str, Split], path: str) -> None:
    """Training images must not be evaluated on. Raises InputError where all of a split are (one flat file given for
    all splits), warns where some are."""
    train = set(splits["train"].table.image_paths)
    for name, split in splits.items():
        images = split.table.image_paths
        shared = sum(image in train for image in images) if name != "train" else 0
        if shared == len(images):
            raise InputError(
                f"{path}: every image of split '{name}' is a training image; data.path must be a folder with "
                "{train,val,test}.json or .csv, or a file which says of each image which split it is in: Karpathy's, "
                "or a table with a column 'split'; data.split='90/5/5' divides one that does not"
            )
        if shared:
            logging.warning(
                "%s: %d of %d images of '%s' are training images", path, shared, len(images), name
            )


def check_present(splits: Iterable[Split]) -> None:
    """Raises InputError that counts the image files that are not there, and names some: before a training begins.

    Whether a file can be read is found out when it is read.
    """
    paths = [path for split in splits if isinstance(split.images, ImageFiles) for path in split.images.paths]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(paths)} images not found: {listed(missing)}; check data.path and data.image_root, "
            "or leave out their captions with data.on_bad_image='skip'"
        )


def _relevance(file: Path, table: CaptionTable) -> np.ndarray | None:
    if not file.is_file():
        return None
    try:
        relevance = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{file}: not a readable array ({error}); delete it or make it again") from error
    shape = (len(table.captions), len(table.image_ids))
    if relevance.shape != shape or relevance.dtype != bool:
        raise InputError(f"{file}: {relevance.dtype} {relevance.shape}, but the split needs bool {shape}")
    return relevance
