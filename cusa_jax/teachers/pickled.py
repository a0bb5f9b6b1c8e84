"""The reference's feature files: np.save of a pickled {image id: float array [1, D]}, read without unpickling."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from cusa_jax.errors import InputError
from cusa_jax.weights.pickles import NUMPY_GLOBALS, PickledArray, lookup, read_pickle


def read_pickled_features(path: Path) -> dict[str, np.ndarray]:
    """{image id: array} of a `*_unicom.npy`; the arrays have the shapes and dtypes that were saved.

    Reference dataset/cross_coco_dataset.py:34. Raises InputError where the file is damaged, is not such a
    dict, or asks for anything but numpy arrays.
    """
    try:
        with path.open("rb") as file:
            _read_object_header(file)
            [features] = read_pickle(file, _numpy_global).value
            return {str(key): _array_of(key, feature) for key, feature in features.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        # What a damaged file does to a parser cannot be foreseen.
        raise InputError(f"{path}: damaged, or not a dict {{image id: feature}} ({error!r})") from error


def _numpy_global(name: str) -> Any:
    return lookup(NUMPY_GLOBALS, name, "a dict of numpy arrays")


def _read_object_header(file: BinaryIO) -> None:
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    shape, _, dtype = read_header(file)
    if shape != () or dtype.kind != "O":
        raise InputError(
            f"a plain {dtype} array {list(shape)}; what is needed is a dict {{image id: feature}}"
        )


def _array_of(image_id: str | int, feature: Any) -> np.ndarray:
    if isinstance(feature, PickledArray) and isinstance(feature.value, np.ndarray):
        return feature.value
    raise InputError(f"the feature of {image_id!r} is not an array of numbers")
