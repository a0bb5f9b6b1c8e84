"""What files say of a model beside its tensors: decided here, for every format and on every path.

Each setting is honoured, ignored for a stated reason, or refused by its name: a model that is run in another way
than it was trained loses points without any other sign.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cusa_jax.errors import InputError, one_line
from cusa_jax.inputs import CLIP_MEAN, CLIP_STD, Resampling
from cusa_jax.jsonfile import read_json
from cusa_jax.models.layers import ACTIVATIONS


@contextlib.contextmanager
def read_as(what: str, path: Path) -> Iterator[None]:
    """What a file that is something else does to its reader becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{path}: not {what} ({one_line(repr(error))[:200]})") from error


@dataclasses.dataclass(frozen=True)
class PixelFile:
    """How a kind of file says how images become pixels.

    mean, std: the keys of the statistics. only: what other keys may be, given the model's image size, for images to be
    made as the family's are. ignored: {key: why it makes no difference}. defaults: (mean, std) of the family.
    way: how its images are made, with {size} in it.
    """

    mean: str
    std: str
    only: Mapping[str, Callable[[Any, int], bool]]
    ignored: Mapping[str, str]
    defaults: tuple[tuple[float, ...], tuple[float, ...]] = (CLIP_MEAN, CLIP_STD)
    way: str = "resized to a short side of {size}, bicubic, and cropped at the centre"


def _is(wanted: Any) -> Callable[[Any, int], bool]:
    return lambda value, _: bool(value == wanted)


_CALLING = "how the library is called, not what it makes of an image"
PREPROCESSOR_CONFIG = PixelFile(
    "image_mean",
    "image_std",
    only={
        "do_resize": _is(True),
        "size": lambda value, size: value in (size, {"shortest_edge": size}),
        "resample": _is(3),
        "do_center_crop": _is(True),
        "crop_size": lambda value, size: value in (size, {"height": size, "width": size}),
        "do_rescale": _is(True),
        "rescale_factor": lambda value, _: isinstance(value, float) and math.isclose(value, 1 / 255),
        "do_normalize": _is(True),
    },
    ignored={
        "image_processor_type": "the settings say what it does",
        "feature_extractor_type": "the settings say what it does",
        "do_convert_rgb": "images are always converted to RGB",
        "default_to_square": "for sizes without a name, which CLIP's processor takes for the short side",
        "processor_class": _CALLING,
        "data_format": _CALLING,
        "input_data_format": _CALLING,
        "device": _CALLING,
        "return_tensors": _CALLING,
        "disable_grouping": _CALLING,
        "_valid_processor_keys": _CALLING,
    },
)
RESAMPLING: tuple[Resampling, ...] = ("nearest", "lanczos", "bilinear", "bicubic")  # Pillow's numbers
SIGLIP_PREPROCESSOR_CONFIG = dataclasses.replace(
    PREPROCESSOR_CONFIG,
    only={
        **PREPROCESSOR_CONFIG.only,
        "size": lambda value, size: value == {"height": size, "width": size},
        "resample": lambda value, _: value in range(len(RESAMPLING)),
        "do_center_crop": _is(False),
    },
    ignored={
        **PREPROCESSOR_CONFIG.ignored,
        "default_to_square": "for sizes without a name, which are refused",
    },
    defaults=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    way="squashed to {size} x {size}",
)
OPEN_CLIP_PREPROCESS = PixelFile(
    "mean",
    "std",
    only={
        "size": lambda value, size: value in (size, [size, size]),
        "mode": _is("RGB"),
        "interpolation": _is("bicubic"),
        "resize_mode": _is("shortest"),
    },
    ignored={"fill_color": "the border of a way to resize that is refused"},
)


PREPROCESSOR = "preprocessor_config.json"
_PROCESSOR = "processor_config.json"  # in which newer versions of the library have the same


def read_preprocessor(folder: Path) -> tuple[Mapping[str, Any], Path]:
    """What a Hugging Face folder says of pixels, {} where it says nothing, and the file that says it."""
    path = folder / PREPROCESSOR
    if path.is_file():
        return read_json(path, "get it again"), path
    newer = folder / _PROCESSOR
    said = read_json(newer, "get it again").get("image_processor") if newer.is_file() else None
    if said is None:
        return {}, path
    if not isinstance(said, dict):
        raise InputError(f"{newer}: image_processor is no object; get it again")
    return said, newer


def statistics(
    said: Mapping[str, Any], file: PixelFile, image_size: int, where: str | Path
) -> dict[str, tuple[float, ...]]:
    """{'mean', 'std'} of pixels, the family's where the file does not say them; others are announced.

    Raises InputError that names every key by which images would be made in another way than its own, or not known.
    """
    known = (file.mean, file.std, *file.ignored)
    wrong = [
        f"{key}={value!r}"[:80]
        for key, value in said.items()
        if value is not None
        and key not in known
        and not (key in file.only and file.only[key](value, image_size))
    ]
    if wrong:
        raise InputError(
            f"{where}: {one_line(', '.join(wrong))}: images are {file.way.format(size=image_size)}, nothing else; "
            "remove a key that changes nothing of it"
        )
    mean = _channels(said, file.mean, file.defaults[0], -math.inf, where)
    std = _channels(said, file.std, file.defaults[1], 0.0, where)
    if (mean, std) != file.defaults:
        logging.warning(
            "%s: pixels have its %s %s and %s %s, not its family's", where, file.mean, mean, file.std, std
        )
    return {"mean": mean, "std": std}


def _channels(
    said: Mapping[str, Any], key: str, default: tuple[float, ...], above: float, where: str | Path
) -> tuple[float, ...]:
    values = said.get(key)
    if values is None:
        return default
    numbers = isinstance(values, list) and all(
        type(value) in (int, float) and above < value < math.inf for value in values
    )
    if not numbers or len(values) != 3:
        raise InputError(f"{where}: {key}={one_line(repr(values)[:80])} is not one number for each channel")
    # Some files write CLIP's own with fewer digits: no byte of a pixel could show that difference.
    return default if np.allclose(values, default, rtol=0, atol=1e-6) else tuple(map(float, values))


def activation(said: str | None, asked: str, where: str | Path) -> str:
    """What the file says of its activation, or else what the user says, never a guess.

    Raises InputError where neither says it, or they disagree.
    """
    if said and asked and said != asked:
        raise InputError(f"{where}: its activation is {said}, not {asked}")
    if not (said or asked):
        raise InputError(
            f"{where}: does not say its activation; OpenAI's weights have quick_gelu, open_clip's gelu unless their "
            "model is called '…-quickgelu'. Say it by config.model.activation in a training, or once and for all by "
            "`scripts/convert.py IN OUT.safetensors --activation=…`"
        )
    known = said or asked
    if known not in ACTIVATIONS:
        raise InputError(f"{where}: activation {one_line(known)!r} is none of {', '.join(ACTIVATIONS)}")
    return known
