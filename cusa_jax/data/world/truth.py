"""Exact truth about the world: which captions are true of which scenes, and how much two of a kind share."""

from __future__ import annotations

import itertools

import numpy as np

from cusa_jax.data.world.captions import Forms
from cusa_jax.data.world.scenes import MAX_OBJECTS, NONE, Scenes, relations

_ASSIGNMENTS = tuple(itertools.permutations(range(MAX_OBJECTS)))
_WEIGHTS = np.array([1.0, 1.0, 0.5], np.float32)  # shape, colour, size
_BACKGROUND_WEIGHT = 1.0


def relevance(forms: Forms, scenes: Scenes) -> np.ndarray:
    """Model checking: bool [M, N], is form m true of scene n?

    It is iff its objects can be assigned to distinct objects of the scene such that every attribute,
    the relation and the background that are said hold (the visual denotation of Young et al., TACL 2014).
    """

    def agrees(said: np.ndarray, fact: np.ndarray) -> np.ndarray:
        return (said[:, None] == NONE) | (said[:, None] == fact)

    def describes(phrase: int, slot: int) -> np.ndarray:
        said, facts = forms.objects[:, phrase].T, scenes.objects[:, slot].T
        return np.all([agrees(s, f) for s, f in zip(said, facts, strict=True)], axis=0)

    def relates(first: int, second: int) -> np.ndarray:
        holds = relations(scenes.cell[:, first], scenes.cell[:, second])
        return (forms.relation == NONE)[:, None] | holds.T[forms.relation]

    table = [[describes(phrase, slot) for slot in range(MAX_OBJECTS)] for phrase in range(MAX_OBJECTS)]
    true = np.zeros((len(forms), len(scenes)), bool)
    for slots in _ASSIGNMENTS:
        objects = [table[phrase][slot] for phrase, slot in enumerate(slots)]
        true |= np.all([relates(slots[0], slots[1]), *objects], axis=0)
    return true & agrees(forms.background, scenes.background)


def fact_overlap(a: Scenes | Forms, b: Scenes | Forms) -> np.ndarray:
    """Graded similarity of two sets of scenes, or of forms: float32 [len(a), len(b)], 0 to 1.

    Weighted Dice overlap of the facts about objects and background, objects being matched as well as
    possible: shape 1, colour 1, size ½, background 1. Positions and relations do not count.
    """

    def alike(i: int, j: int) -> np.ndarray:
        pairs = zip(a.objects[:, i].T, b.objects[:, j].T, strict=True)
        return np.tensordot(_WEIGHTS, np.stack([_shared(x, y) for x, y in pairs]), 1)

    table = [[alike(i, j) for j in range(MAX_OBJECTS)] for i in range(MAX_OBJECTS)]
    matched = np.max([np.sum([table[i][j] for i, j in enumerate(slots)], 0) for slots in _ASSIGNMENTS], 0)
    common = matched + _BACKGROUND_WEIGHT * _shared(a.background, b.background)
    return (2 * common / (_weight(a)[:, None] + _weight(b))).astype(np.float32)


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a[:, None] == b) & (a[:, None] != NONE)


def _weight(facts: Scenes | Forms) -> np.ndarray:
    of_objects = (facts.objects != NONE) @ _WEIGHTS
    return of_objects.sum(1) + _BACKGROUND_WEIGHT * (facts.background != NONE)
