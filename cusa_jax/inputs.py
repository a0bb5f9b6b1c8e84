"""What a student must be given: pixels or regions of an image, and token ids of a caption.

A student says it (`Student.inputs`), `data/` delivers it, and neither knows the other.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias, get_args

import numpy as np

from cusa_jax.errors import InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Resize = Literal["crop", "squash"]
Resampling = Literal["bicubic", "bilinear", "lanczos", "nearest"]


@dataclasses.dataclass(frozen=True)
class Pixels:
    """A square picture: uint8 [size, size, 3] on the host, (x / 255 - mean) / std per channel on the device.

    resize: 'crop' scales the short side to `size` and cuts out the centre; 'squash' scales both sides to `size`.
    Raises InputError for a size below 1, a std that is not positive, and ways to resize that do not exist.
    """

    dtype = np.dtype(np.uint8)

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    resize: Resize = "crop"
    resampling: Resampling = "bicubic"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"image size {self.size} is not a number of pixels")
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise InputError(
                f"pixels need three means and three positive stds, not {self.mean} and {self.std}"
            )
        for value, known in ((self.resize, Resize), (self.resampling, Resampling)):
            if value not in get_args(known):
                raise InputError(f"images are resized by {', '.join(get_args(known))}, not by '{value}'")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return (self.size, self.size, 3)

    @property
    def on_host(self) -> Pixels:
        """What decides the uint8 pixels: all but mean and std, which the device applies."""
        return dataclasses.replace(self, mean=CLIP_MEAN, std=CLIP_STD)


@dataclasses.dataclass(frozen=True)
class Regions:
    """Detector features, or a grid of patch features: float32 [count, width] an image."""

    count: int
    width: int
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return (self.count, self.width)

    @property
    def on_host(self) -> Regions:
        """As for `Pixels`."""
        return self


ImageInputs: TypeAlias = Pixels | Regions


@dataclasses.dataclass(frozen=True)
class Text:
    """Token ids of a caption: int32 [length], filled up with `pad_id`.

    tokenizer: a name in `data.tokenize.TOKENIZERS`, or a tokenizer.json or the folder that holds one, or a vocabulary
    of words (`data.vocabulary`).
    may_cut: whether columns that are padding in every row may be left out (a causal text tower, for one).
    cleaned: whether captions are cleaned first (`data.captions.clean_caption`), or tokenised as they were written.
    """

    length: int
    vocab_size: int
    tokenizer: str = "clip"
    pad_id: int = 0
    may_cut: bool = True
    cleaned: bool = True


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Of both sides."""

    image: ImageInputs
    text: Text
