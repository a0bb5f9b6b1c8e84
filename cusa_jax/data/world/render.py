"""Rendering: scenes to pixels, with nuisances no caption speaks of (jitter, hue, brightness, noise)."""

from __future__ import annotations

import numpy as np

from cusa_jax.data.world.scenes import SHAPES, Scenes

# Lengths are fractions of the image side; colours are RGB in [0, 1].
_COLOUR_RGB = np.array(
    [
        (0.85, 0.15, 0.15),
        (0.15, 0.70, 0.20),
        (0.20, 0.30, 0.90),
        (0.90, 0.85, 0.20),
        (0.60, 0.20, 0.75),
        (0.95, 0.95, 0.95),
    ]
)
_BACKGROUND_RGB = np.array([(0.05, 0.05, 0.15), (0.55, 0.75, 0.95), (0.30, 0.50, 0.25), (0.80, 0.70, 0.50)])
_RADIUS = np.array([2.6, 4.6]) / 32  # small, big
_CELL = 10 / 32
_MARGIN = 6 / 32  # image border to the centre of the first cell
_JITTER = 1.5 / 32
_NOISE = 0.06

# Is the point (x, y), in radii from the centre and y downwards, inside the shape?
_INSIDE = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, y: (abs(x) <= 0.88) & (abs(y) <= 0.88),
    "triangle": lambda x, y: (y >= -1) & (y <= 0.8) & (abs(x) <= 0.6 * (y + 1)),
    "cross": lambda x, y: ((abs(x) <= 0.33) & (abs(y) <= 1)) | ((abs(y) <= 0.33) & (abs(x) <= 1)),
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.55**2),
    "bar": lambda x, y: (abs(x) <= 1.1) & (abs(y) <= 0.35),
}


def render(scenes: Scenes, rng: np.random.Generator, size: int = 32) -> np.ndarray:
    """Pictures of the scenes: uint8 [N, size, size, 3]."""
    images = np.empty((len(scenes), size, size, 3), np.uint8)
    axis = (np.arange(size) + 0.5) / size
    for n, image in enumerate(images):
        canvas = np.empty(image.shape)
        canvas[:] = _BACKGROUND_RGB[scenes.background[n]] * rng.uniform(0.85, 1.15)
        for slot in np.flatnonzero(scenes.present[n]):
            shape, colour, big = scenes.objects[n, slot]
            centre = _MARGIN + _CELL * scenes.cell[n, slot] + rng.uniform(-_JITTER, _JITTER, 2)
            radius = _RADIUS[big] * rng.uniform(0.92, 1.08)
            x, y = (axis - centre[0]) / radius, (axis[:, None] - centre[1]) / radius
            canvas[_INSIDE[SHAPES[shape]](x, y)] = _COLOUR_RGB[colour] + rng.normal(0, 0.05, 3)
        canvas += rng.normal(0, _NOISE, canvas.shape)
        image[:] = np.rint(np.clip(canvas, 0, 1) * 255)
    return images
