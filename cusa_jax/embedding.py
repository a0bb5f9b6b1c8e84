"""Every image and every caption through a student, once: the one loop behind validation, suites and controls.

A student with embeddings is scored by their inner products; one that must see both sides is scored in blocks of
what it encoded.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from cusa_jax import sharding
from cusa_jax.data.pipeline import image_batches
from cusa_jax.data.prefetch import OnBadImage
from cusa_jax.data.sources import ImageSource
from cusa_jax.data.tokenize import by_length, text_length_bucket, text_lengths
from cusa_jax.distributed import together
from cusa_jax.encoder import Encoder
from cusa_jax.evaluation.ranking import replicated_rows
from cusa_jax.evaluation.scores import Blocks, InnerProducts, Scores
from cusa_jax.models.student import Variables
from cusa_jax.progress import progress

# Images, and captions, that are scored together at a time.
_TILE = 128
# Scores of a student without embeddings that are kept, 1 GiB, for each would otherwise be computed once a way.
_KEPT = 1 << 28


def encode_images(
    encoder: Encoder,
    variables: Variables,
    images: ImageSource,
    *,
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    label: str = "",
) -> tuple[np.ndarray, Any]:
    """(numbers int32 [m] of the readable images, what `Encoder.side` makes of them: arrays [m, …]).

    images: M images. label: of the progress bar; '' shows none. Raises InputError for an unreadable image, unless
    'skip' leaves it out and says so.
    """
    batches = image_batches(
        images,
        encoder.student.inputs.image,
        batch_size=encoder.batch_size,
        workers=workers,
        on_bad_image=on_bad_image,
    )
    numbers, parts = [], []
    with _progress(label, "images", len(images)) as bar:
        for here, rows in batches:
            # The rows of a batch are filled up by repetition.
            parts.append(encoder.side(variables, "image", rows[: len(here)]))
            numbers.append(here)
            bar.update(len(here))
    return np.concatenate(numbers), _joined(parts)


def encode_texts(encoder: Encoder, variables: Variables, tokens: np.ndarray, *, label: str = "") -> Any:
    """What `Encoder.side` makes of token ids int32 [N, L]: arrays [N, …], in their order.

    Padding is cut as in training where the student allows it: batch by batch, to the bucket of the longest caption;
    without embeddings all captions together, for what is encoded must have one shape.
    """
    text = encoder.student.inputs.text
    lengths = text_lengths(tokens, text.pad_id)
    if not text.may_cut:
        batches = [(np.arange(len(tokens)), tokens.shape[1])]
    elif encoder.embeds:
        batches = list(by_length(lengths, encoder.batch_size))
    else:
        batches = [(np.arange(len(tokens)), text_length_bucket(lengths))]
    parts = []
    with _progress(label, "texts", len(tokens)) as bar:
        for rows, width in batches:
            parts.append(encoder.side(variables, "text", tokens[rows, :width]))
            bar.update(len(rows))
    back = np.argsort(np.concatenate([rows for rows, _ in batches]))
    return jax.tree.map(lambda x: x[back], _joined(parts))


def scores(encoder: Encoder, variables: Variables, images: Any, texts: Any) -> Scores:
    """The scores of M encoded images and N encoded texts, by the cross-modal embeddings where there are any."""
    if encoder.embeds:
        return InnerProducts(images[0], texts[0])
    blocks = _blocks(encoder, variables, images, texts)
    return blocks.matrix() if blocks.size[0] * blocks.size[1] <= _KEPT else blocks


def _blocks(encoder: Encoder, variables: Variables, images: Any, texts: Any) -> Blocks:
    """Images are split over the devices; every device sees all captions of a block."""
    score, mesh = together(jax.jit(encoder.student.score)), encoder.mesh
    tile = sharding.round_up(_TILE, mesh.size)

    def block(m: np.ndarray, n: np.ndarray) -> np.ndarray:
        # One shape for all blocks: the last one of a row or column is filled up.
        some = jax.tree.map(lambda x: sharding.put_rows(x[np.resize(m, tile)], mesh), images)
        others = jax.tree.map(lambda x: replicated_rows(x[np.resize(n, tile)], mesh), texts)
        return sharding.fetch(score(variables, some, others))[: len(m), : len(n)]

    return Blocks((_count(images), _count(texts)), block, (tile, tile))


def _count(encoded: Any) -> int:
    return len(jax.tree.leaves(encoded)[0])


def _joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _progress(label: str, what: str, total: int) -> tqdm:
    return progress(total=total, what=f"{label}: {what}", unit=what[:-1], shown=bool(label))
