"""Captions: partial descriptions of scenes. A logical form says which facts are told, wording how."""

from __future__ import annotations

import dataclasses

import numpy as np

from cusa_jax.data.world.scenes import ATTRIBUTES, NONE, RELATIONS, Scenes, relations

_WORDS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop", "loop"),
    "bar": ("bar", "stick", "plank"),
    "red": ("red", "crimson"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "yellow": ("yellow", "golden"),
    "purple": ("purple", "violet"),
    "white": ("white", "pale"),
    "small": ("small", "tiny", "little"),
    "big": ("big", "large", "huge"),
    "left": ("left of", "beside and left of"),
    "right": ("right of", "beside and right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
_GENERIC = ("shape", "thing", "object", "figure")  # a shape that is not said
_BACKGROUND_PHRASES = (
    ("at night", "in the dark", "under a black sky"),
    ("by day", "in daylight", "under a blue sky"),
    ("on grass", "on a lawn", "in a meadow"),
    ("on sand", "on a beach", "in a desert"),
)
_SHAPE_WORDS, _COLOUR_WORDS, _SIZE_WORDS = ([_WORDS[name] for name in values] for values in ATTRIBUTES)
_RELATION_WORDS = [_WORDS[name] for name in RELATIONS]


@dataclasses.dataclass(frozen=True)
class Forms:
    """M logical forms, as arrays: conjunctions of facts; NONE is a fact that is not said.

    objects: int8 [M, 3, 3], shape, colour and size of each object spoken of (a phrase); a phrase that is
        there says its shape or its colour, a row of NONE is no phrase.
    relation: int8 [M], number in RELATIONS: how the first object lies to the second.
    background: int8 [M], number in BACKGROUNDS.
    """

    objects: np.ndarray
    relation: np.ndarray
    background: np.ndarray

    def __len__(self) -> int:
        return len(self.background)


def sample_forms(
    scenes: Scenes, caption_image: np.ndarray, rng: np.random.Generator, specificity: float
) -> Forms:
    """One true partial description of scene `caption_image[m]` (int [M]) for each caption m.

    Every fact is told with a probability that grows with `specificity` (0 and up), so less specific
    captions are true of more images.
    """
    m = len(caption_image)
    present = scenes.present[caption_image]
    object_count = np.minimum(
        present.sum(1), 1 + (rng.random(m) < 0.55) + (rng.random(m) < 0.15 * specificity)
    )  # number of objects spoken of
    order = (rng.random(present.shape) + ~present).argsort(axis=1)[:, :, None]  # objects that are there first
    objects = np.take_along_axis(scenes.objects[caption_image], order, axis=1)
    cell = np.take_along_axis(scenes.cell[caption_image], order, axis=1)

    chance = np.array([0.40, 0.35, 0.10]) + np.array([0.55, 0.55, 0.35]) * specificity
    say = rng.random(objects.shape) < chance
    say[:, :, 0] |= ~say[:, :, 1]
    say &= (np.arange(objects.shape[1]) < object_count[:, None])[:, :, None]

    true_relation = (rng.random((m, len(RELATIONS))) * relations(cell[:, 0], cell[:, 1])).argmax(1)
    say_relation = (object_count == 2) & (rng.random(m) < 0.5 * specificity)
    say_background = rng.random(m) < 0.45 * specificity
    return Forms(
        objects=np.where(say, objects, NONE).astype(np.int8),
        relation=np.where(say_relation, true_relation, NONE).astype(np.int8),
        background=np.where(say_background, scenes.background[caption_image], NONE).astype(np.int8),
    )


def word(forms: Forms, rng: np.random.Generator) -> list[str]:
    """Put logical forms into words; each synonym is equally likely."""
    luck = iter(rng.random(len(forms) * 11).tolist())  # at most 3 × 3 object words, relation and background

    def pick(words: tuple[str, ...]) -> str:
        return words[int(next(luck) * len(words))]

    def phrase(shape: int, colour: int, size: int) -> str:
        return " ".join(
            ["a"]
            + ([pick(_SIZE_WORDS[size])] if size != NONE else [])
            + ([pick(_COLOUR_WORDS[colour])] if colour != NONE else [])
            + [pick(_SHAPE_WORDS[shape] if shape != NONE else _GENERIC)]
        )

    captions = []
    facts = zip(forms.objects.tolist(), forms.relation.tolist(), forms.background.tolist(), strict=True)
    for objects, relation, background in facts:
        phrases = [phrase(*said) for said in objects if max(said) != NONE]
        joint = "and" if relation == NONE else pick(_RELATION_WORDS[relation])
        ending = [] if background == NONE else [pick(_BACKGROUND_PHRASES[background])]
        captions.append(" ".join([f" {joint} ".join(phrases), *ending]))
    return captions
