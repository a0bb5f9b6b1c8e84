"""A student of one's own: every word looks for its patch (late interaction), with dropout and learned weights."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.inputs import Inputs, Pixels, Text
from cusa_jax.models.families import FAMILIES
from cusa_jax.models.linen_student import LinenStudent
from cusa_jax.models.student import Family


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int = 16
    image_size: int = 32
    patch: int = 8


class LateInteraction(nn.Module):
    sizes: Sizes

    def setup(self):
        self.image, self.text = nn.Dense(self.sizes.width), nn.Embed(49408, self.sizes.width)
        self.dropout = nn.Dropout(0.1)
        self.importance = self.param("importance", nn.initializers.ones, (self.sizes.width,))

    def encode(self, side, rows, train=False):
        if side == "text":
            return {"words": self.dropout(self.text(rows), deterministic=not train), "real": rows > 0}
        grid, patch = self.sizes.image_size // self.sizes.patch, self.sizes.patch
        patches = rows.reshape(-1, grid, patch, grid, patch, 3).swapaxes(2, 3).reshape(len(rows), grid**2, -1)
        return {"patches": self.dropout(self.image(patches), deterministic=not train)}

    def score(self, images, texts, train=False):
        words = texts["words"] * self.importance
        best = jnp.einsum("ipd,twd->itwp", images["patches"], words).max(axis=-1)
        return jnp.tanh((best * texts["real"]).sum(-1) / texts["real"].sum(-1).clip(1))


def student(sizes, options):
    inputs = Inputs(Pixels(sizes.image_size), Text(length=77, vocab_size=49408))
    return LinenStudent("late", sizes, inputs, LateInteraction(sizes))


FAMILIES["late"] = Family(Sizes, {"late": Sizes()}, student)
