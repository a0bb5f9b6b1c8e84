"""From a dataset's files to splits ready for the encoders: cleaned, tokenised, exact relevance where it is known."""

from pathlib import Path

import numpy as np
from absl import logging

from cusa_jax.data.captions import CaptionTable, Split, clean_captions, read_captions
from cusa_jax.data.prepared import is_prepared, read_prepared
from cusa_jax.data.tokenize import ClipTokenizer, text_length_bucket, text_lengths
from cusa_jax.errors import InputError


def load_split(
    path: str, split: str, *, image_root: str, context_length: int, image_size: int | None = None
) -> Split:
    """Reads `split` of the dataset at `path`; `{split}_relevance.npy` beside it is used where it is there.

    image_size: of the model, which a prepared folder must fit; None where no images are read.
    """
    table = read_captions(path, split, image_root=image_root)
    captions = clean_captions(table.captions)
    relevance = _relevance(Path(path), split, table)
    if is_prepared(path):
        table, tokens = read_prepared(
            path, split, table, image_size=image_size, context_length=context_length
        )
        return Split(table, captions, tokens, relevance)
    tokens, truncated = ClipTokenizer()(captions, context_length)
    if truncated:
        logging.warning("%s: %d captions over %d tokens were cut", split, truncated, context_length)
    longest = min(text_length_bucket(text_lengths(tokens)), context_length)
    return Split(table, captions, tokens[:, :longest], relevance)


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
                "{train,val,test}.json, or a Karpathy file, which says of each image which split it is in"
            )
        if shared:
            logging.warning(
                "%s: %d of %d images of '%s' are training images", path, shared, len(images), name
            )


def _relevance(path: Path, split: str, table: CaptionTable) -> np.ndarray | None:
    file = (path if path.is_dir() else path.parent) / f"{split}_relevance.npy"
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
