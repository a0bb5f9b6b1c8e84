"""Splits of the world: scenes, their pictures and their captions, all drawn from one seed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Literal, get_args

import numpy as np

from cusa_jax.data.world.captions import Forms, sample_forms, word
from cusa_jax.data.world.render import render
from cusa_jax.data.world.scenes import Scenes, sample_scenes
from cusa_jax.data.world.truth import relevance
from cusa_jax.errors import InputError

Split = Literal["train", "val", "test", "teacher"]
CAPTIONS_PER_IMAGE = 5
SPECIFICITY = 2.2  # 3.2 relevant images a caption and 15.9 relevant captions an image, of 500 images


@dataclasses.dataclass(frozen=True)
class World:
    """One split: N images with M captions.

    scenes: what the N images show.
    images: uint8 [N, size, size, 3].
    forms: what the M captions say.
    captions: the M captions in words.
    caption_image: int [M], the image each caption was written for (the annotated pair), ascending.
    """

    scenes: Scenes
    images: np.ndarray
    forms: Forms
    captions: list[str]
    caption_image: np.ndarray

    @functools.cached_property
    def relevance(self) -> np.ndarray:
        """bool [M, N]: is the caption true of the image? Quadratic: for evaluation splits."""
        return relevance(self.forms, self.scenes)

    def sha256(self) -> str:
        """Fingerprint of everything in it."""
        digest = hashlib.sha256()
        for part in (self.scenes, self.forms):
            for field in dataclasses.fields(part):
                digest.update(getattr(part, field.name).tobytes())
        digest.update(self.caption_image.astype(np.int32).tobytes())
        digest.update("\n".join(self.captions).encode())
        digest.update(self.images.tobytes())
        return digest.hexdigest()


def generate(
    split: Split, n_images: int, seed: int = 0, *, image_size: int = 32, specificity: float = SPECIFICITY
) -> World:
    """A split of the world: the same arguments give the same world, different splits different draws.

    image_size: pixels per side. Scenes and captions do not depend on it.
    specificity: how much a caption tells (0 and up): more means fewer images that it is true of.
    Raises InputError for a split that does not exist or a number that is out of range.
    """
    splits = get_args(Split)
    if split not in splits:
        raise InputError(f"the world has no split {split!r}; it has {', '.join(splits)}")
    for name, value, least in (("n_images", n_images, 1), ("image_size", image_size, 8), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"the world needs {name} >= {least}, not {value}")

    streams = np.random.SeedSequence([seed, splits.index(split)]).spawn(4)
    scene_rng, form_rng, word_rng, pixel_rng = map(np.random.default_rng, streams)
    scenes = sample_scenes(n_images, scene_rng)
    caption_image = np.arange(n_images).repeat(CAPTIONS_PER_IMAGE)
    forms = sample_forms(scenes, caption_image, form_rng, specificity)
    return World(
        scenes=scenes,
        images=render(scenes, pixel_rng, image_size),
        forms=forms,
        captions=word(forms, word_rng),
        caption_image=caption_image,
    )
