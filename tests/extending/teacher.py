"""A teacher of one's own: a folder whose config.json says `"model_type": "colours"` is an image teacher by histograms.

Its features are soft counts of colours: photographs with the same palette are alike.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cusa_jax.inputs import Pixels
from cusa_jax.teachers.folder import ModelFolder
from cusa_jax.teachers.live import IMAGE_TEACHERS
from cusa_jax.types import Params, Teacher


def apply(params: Params, pixels: jax.Array) -> jax.Array:
    """uint8 [B, H, W, 3] -> how much of the picture is near each of K palette colours, float32 [B, K]."""
    colours = pixels.reshape(len(pixels), -1, 1, 3) / 255.0
    distance = jnp.square(colours - params["palette"]).sum(-1)
    return jax.nn.softmax(-params["sharpness"] * distance, axis=-1).mean(axis=1)


def load(folder: ModelFolder) -> tuple[Teacher, Params]:
    levels = np.linspace(0, 1, folder.config["levels"])
    palette = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3).astype(np.float32)
    params = {"palette": palette, "sharpness": np.float32(20)}
    return Teacher(folder.name, apply, "pixels", image=Pixels(32)), params


IMAGE_TEACHERS["colours"] = load
