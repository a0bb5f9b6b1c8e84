"""A model for programs of one's own: `load(source)`, then `encode_image` and `encode_text` (docs/weights.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from absl import logging
from PIL import Image

from cusa_jax import embedding, sharding
from cusa_jax.data.captions import clean_captions
from cusa_jax.data.images import open_image, preprocess
from cusa_jax.data.tokenize import tokenizer
from cusa_jax.data.tokenizer_file import Tokenizer
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.weights.formats import read_weights
from cusa_jax.weights.hub import Weights

Space = Literal["cross", "uni"]


class Pretrained:
    """A model with embeddings, on the devices that there are. Similarities are inner products of embeddings.

    source: of the weights, for messages.
    space: 'cross' compares images with texts; 'uni' images with images and texts with texts, by the heads for it where
    the model has them.
    """

    def __init__(self, source: str | Path, weights: Weights, *, batch_size: int = 64):
        student, variables = weights.student(), weights.variables
        mesh = sharding.make_mesh()
        self._encoder = Encoder(student, mesh, batch_size)
        try:
            self._encoder.check_embeds()
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        if not isinstance(student.inputs.image, Pixels):
            raise InputError(f"{source}: the model takes features of regions, and a photo is made of pixels")
        self._pixels, self._text = student.inputs.image, student.inputs.text
        self._variables = sharding.put_params(variables, mesh)
        self._source = source
        self._tokenize: Tokenizer | None = None

    def encode_image(
        self, images: Sequence[str | Path | Image.Image], *, space: Space = "cross", as_shown: bool = True
    ) -> np.ndarray:
        """Embeddings float32 [N, E] of length 1, of files or of Pillow's images.

        as_shown: files are read as viewers show them, upright and on white; without, as the paper's evaluation does.
        Raises InputError, which names the file, for one that cannot be read, and for anything else than a list.
        """
        parts = [np.zeros((0, self._width()), np.float32)]
        for some in _batches(_listed(images, "images"), self._encoder.batch_size):
            rows = np.stack([preprocess(_picture(image, as_shown), self._pixels) for image in some])
            parts.append(self._encoder.images(self._variables, rows)[_number(space)])
        return np.concatenate(parts)

    def encode_text(self, texts: Sequence[str], *, space: Space = "cross") -> np.ndarray:
        """Embeddings float32 [N, E] of length 1. Texts are cleaned and cut as captions are in training.

        Raises InputError for a model whose tokenizer is not known, and for anything else than a list.
        """
        texts, number = _listed(texts, "texts"), _number(space)
        if not texts:
            return np.zeros((0, self._width()), np.float32)
        if self._tokenize is None:
            try:
                self._tokenize = tokenizer(self._text)
            except InputError as error:
                raise InputError(f"{self._source}: {error}") from error
        tokens, cut = self._tokenize(clean_captions(texts) if self._text.cleaned else texts)
        if cut:
            logging.warning("%d texts over %d tokens were cut", cut, self._text.length)
        return embedding.encode_texts(self._encoder, self._variables, tokens)[number]

    def _width(self) -> int:
        sizes: Any = self._encoder.student.sizes
        return int(sizes.embed_dim)


def load(source: str | Path, *, activation: str = "", batch_size: int = 64) -> Pretrained:
    """The model at `source`: a training's folder, weights of any format, or a Hugging Face id, OWNER/NAME[@REVISION].

    activation: 'quick_gelu' or 'gelu', of a state dict that does not say it. batch_size: rows that are encoded at once.
    Raises InputError in one line for what is no model, or one that has no embeddings.
    """
    return Pretrained(source, read_weights(source, activation), batch_size=batch_size)


def _listed(values: Any, what: str) -> list[Any]:
    if isinstance(values, str | bytes | Path | Image.Image):
        raise InputError(f"{what} are given as a list, even a single one")
    return list(values)


def _number(space: str) -> int:
    if space not in ("cross", "uni"):
        raise InputError(f"space={space!r} is neither 'cross' nor 'uni'")
    return ("cross", "uni").index(space)


def _picture(image: str | Path | Image.Image, as_shown: bool) -> Image.Image:
    return image if isinstance(image, Image.Image) else open_image(image, as_shown)


def _batches(values: list[Any], size: int) -> list[list[Any]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
