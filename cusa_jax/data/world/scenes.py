"""Scenes: one to three coloured shapes in distinct cells of a 3 × 3 grid, on a background."""

from __future__ import annotations

import dataclasses

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = ("small", "big")
BACKGROUNDS = ("night", "day", "grass", "sand")
RELATIONS = ("left", "right", "above", "below")

ATTRIBUTES = (SHAPES, COLOURS, SIZES)  # the last axis of every `objects` array
MAX_OBJECTS = 3
GRID = 3
NONE = -1  # no such object (in a scene); not said (in a caption)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """N scenes, as arrays.

    objects: int8 [N, 3, 3], numbers in SHAPES, COLOURS, SIZES of each object; NONE where there is no object.
    cell: int8 [N, 3, 2], column and row in the grid, rows counted from the top.
    background: int8 [N], number in BACKGROUNDS.
    """

    objects: np.ndarray
    cell: np.ndarray
    background: np.ndarray

    def __len__(self) -> int:
        return len(self.background)

    @property
    def present(self) -> np.ndarray:
        """bool [N, 3]: is there an object in this slot?"""
        return self.objects[:, :, 0] != NONE


def sample_scenes(n: int, rng: np.random.Generator) -> Scenes:
    """Draw n scenes; every number of objects, attribute, background and placement is equally likely."""
    count = rng.integers(1, MAX_OBJECTS + 1, n)
    sizes = [len(values) for values in ATTRIBUTES]
    objects = rng.integers(0, sizes, (n, MAX_OBJECTS, len(sizes)))
    objects[np.arange(MAX_OBJECTS) >= count[:, None]] = NONE
    place = rng.random((n, GRID * GRID)).argsort(axis=1)[:, :MAX_OBJECTS]
    return Scenes(
        objects=objects.astype(np.int8),
        cell=np.stack([place % GRID, place // GRID], axis=-1).astype(np.int8),
        background=rng.integers(0, len(BACKGROUNDS), n).astype(np.int8),
    )


def relations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which RELATIONS hold between two cells: int [..., 2] twice -> bool [..., 4]."""
    column, row = np.moveaxis(first - second, -1, 0)
    return np.stack([column < 0, column > 0, row < 0, row > 0], axis=-1)


def meanings(scenes: Scenes) -> list[tuple]:
    """What captions could tell of each scene: equal keys for scenes that the same captions are true of."""
    keys = []
    for objects, cell, background, present in zip(
        scenes.objects, scenes.cell, scenes.background, scenes.present, strict=True
    ):
        order = sorted(np.flatnonzero(present), key=lambda slot: (*objects[slot], *cell[slot]))
        steps = np.sign(cell[order][:, None] - cell[order][None])
        keys.append((int(background), objects[order].tobytes(), steps.tobytes()))
    return keys
