"""From a text or a photo to the photos most like it: the model, and both embeddings of every photo in memory."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from cusa_jax.data.captions import MAX_WORDS, clean_captions
from cusa_jax.data.images import preprocess
from cusa_jax.data.tokenize import LENGTH_BUCKETS, fitted, tokenizer

# Cosine similarity of two photos that are shown as one, unless the user says another.
ALIKE = 0.97


@dataclasses.dataclass(frozen=True)
class Hit:
    """A photo found. number: in the index. alike: numbers of its near-duplicates, which are shown with it."""

    number: int
    score: float
    alike: tuple[int, ...] = ()


class Finder:
    """Exact search of N photos. Texts are compared by the cross-modal heads, photos by the uni-modal one.

    photos: N paths. cross, uni: float32 [N, E] of length 1, kept on the device. encoder: of one row at a time, as
    `encoder.Encoder`.
    """

    def __init__(
        self,
        photos: list[str],
        cross: np.ndarray,
        uni: np.ndarray,
        encoder: Any,
        variables: Any,
        alike: float = ALIKE,
    ):
        self.photos, self.cross, self.uni = photos, jnp.asarray(cross), jnp.asarray(uni)
        self._encoder, self._variables, self._alike = encoder, variables, alike
        # One query at a time: more would only share the same cores and need memory each.
        self._busy = threading.Lock()
        self._tokenize = tokenizer(encoder.student.inputs.text)

    def prepare(self) -> None:
        """Compiles what the first short text needs."""
        self.by_text(self.embed_text("a photo")[0], len(self.photos))

    def prepare_the_rest(self) -> None:
        """Compiles for longer texts and for photos; queries are answered meanwhile."""
        inputs = self._encoder.student.inputs
        tokens, _ = self._tokenize([" ".join(["photo"] * inputs.text.length)])
        for width in LENGTH_BUCKETS:
            self._encoder.texts(self._variables, fitted(tokens[:, :width], inputs.text))
        self._encoder.images(self._variables, np.zeros((1, *inputs.image.shape), np.uint8))

    def embed_text(self, text: str) -> tuple[np.ndarray, bool]:
        """(cross-modal embedding [E], whether the text was cut)."""
        inputs = self._encoder.student.inputs.text
        tokens, cut = self._tokenize(clean_captions([text]) if inputs.cleaned else [text])
        cut = cut or (inputs.cleaned and len(text.split()) > MAX_WORDS)
        with self._busy:
            # Most queries are short, and the time that a text takes grows with its width.
            return self._encoder.texts(self._variables, fitted(tokens, inputs))[0][0], bool(cut)

    def embed_picture(self, picture: Image.Image) -> np.ndarray:
        """Uni-modal embedding [E] of an RGB picture."""
        pixels = preprocess(picture, self._encoder.student.inputs.image)[None]
        with self._busy:
            return self._encoder.images(self._variables, pixels)[1][0]

    def by_text(self, embedding: np.ndarray, k: int) -> list[Hit]:
        return best(self.cross, embedding, k)

    def by_picture(self, embedding: ArrayLike, k: int) -> list[Hit]:
        return best(self.uni, embedding, k)

    def together(self, hits: list[Hit]) -> list[Hit]:
        """Every photo with its near-duplicates further down, which have no place of their own."""
        rows = np.asarray(self.uni[np.array([hit.number for hit in hits])])
        near = rows @ rows.T >= self._alike
        shown, left = [], np.ones(len(hits), bool)
        for place, hit in enumerate(hits):
            if left[place]:
                group = np.flatnonzero(near[place] & left)
                left[group] = False
                alike = tuple(hits[other].number for other in group if other != place)
                shown.append(dataclasses.replace(hit, alike=alike))
                left[place] = False
        return shown


def best(items: jax.Array, query: ArrayLike, k: int) -> list[Hit]:
    """The min(k, N) items [N, E] of highest inner product with a query [E], best first; equal ones by number.

    Exact. One pass over the items, which is as fast as the memory they are in; only their scores leave the device.
    """
    scores = np.asarray(_scores(items, query))
    k = min(k, len(items))
    # All that reach the k-th score, so that equal ones are told apart by number.
    threshold = np.partition(scores, -k)[-k]
    numbers = np.flatnonzero(scores >= threshold)
    numbers = numbers[np.argsort(-scores[numbers], kind="stable")][:k]
    return [Hit(int(number), float(scores[number])) for number in numbers]


@jax.jit
def _scores(items: jax.Array, query: ArrayLike) -> jax.Array:
    return jnp.matmul(items, query, precision=jax.lax.Precision.HIGHEST)
