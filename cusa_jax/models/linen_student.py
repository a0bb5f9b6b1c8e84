"""A student made of a linen module: what a newcomer has to write is the module, its sizes and its inputs.

The module has two methods, `encode(side, rows, train)` -> a pytree of arrays [B, …], and
`score(images, texts, train)` -> [M, N] of M encoded images and N encoded texts. Parameters of a side lie under its
name, 'image' or 'text', so that freezing a side leaves it in evaluation mode.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.data.images import normalise
from cusa_jax.inputs import Inputs, Pixels
from cusa_jax.models.student import Encoded, ModelState, Rngs, Side, Variables
from cusa_jax.types import Array, Similarities


@dataclasses.dataclass(frozen=True)
class LinenStudent:
    """`models.student.Student` of such a module, which takes normalised pixels (or regions) and token ids."""

    family: str
    sizes: Any
    inputs: Inputs
    module: nn.Module
    rows_independent: bool = True

    def init(self, key: jax.Array) -> Variables:
        """Fresh float32 variables. Submodules draw from their own keys: one more leaves the others as they were."""
        image, text = self.inputs.image, self.inputs.text
        shape = (image.size, image.size, 3) if isinstance(image, Pixels) else (image.count, image.width)
        rows, tokens = jnp.zeros((1, *shape)), jnp.zeros((1, text.length), jnp.int32)

        def everything(module: Any) -> Any:
            return module.score(module.encode("image", rows), module.encode("text", tokens))

        return self.module.init(key, method=everything)

    def encode(
        self,
        variables: Variables,
        image: Array,
        tokens: Array,
        *,
        train: tuple[Side, ...] = (),
        rngs: Rngs = None,
    ) -> tuple[Encoded, ModelState]:
        """{'image': …, 'text': …}, what the module makes of each side."""

        def both(module: Any) -> Any:
            sides = {"image": self._image(image), "text": tokens}
            return {side: module.encode(side, rows, side in train) for side, rows in sides.items()}

        mutable = [name for name in variables if name != "params"] if train else []
        return cast(tuple, self.module.apply(variables, method=both, mutable=mutable, rngs=rngs))

    def encode_side(self, variables: Variables, side: Side, rows: Array) -> Any:
        rows = self._image(rows) if side == "image" else rows
        return self.module.apply(variables, side, rows, method="encode")

    def score(self, variables: Variables, images: Any, texts: Any) -> jax.Array:
        return cast(jax.Array, self.module.apply(variables, images, texts, method="score"))

    def compare(
        self,
        variables: Variables,
        encoded: Encoded,
        *,
        groups: int = 1,
        train: bool = False,
        rngs: Rngs = None,
    ) -> tuple[Similarities, ModelState]:
        """Image-text scores alone; each group draws its own randomness."""

        def one(encoded: Encoded, rngs: Rngs) -> jax.Array:
            scored = self.module.apply(
                variables, encoded["image"], encoded["text"], train, method="score", rngs=rngs
            )
            return cast(jax.Array, scored)

        if groups == 1:
            return Similarities(one(encoded, rngs)), {}
        parts = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), encoded)
        keys = {name: jax.random.split(key, groups) for name, key in (rngs or {}).items()}
        return Similarities(jax.vmap(one)(parts, keys)), {}

    def _image(self, rows: Array) -> Array:
        spec = self.inputs.image
        return normalise(rows, mean=spec.mean, std=spec.std) if isinstance(spec, Pixels) else rows
