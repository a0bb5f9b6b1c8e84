"""Files of teacher features computed beforehand: one vector per image (or caption).

Two formats: `.npz` with `ids` and `features`, ours, and the reference's `*_unicom.npy` (`pickled.py`).
An image is known by its image id, the k-th caption of an image (from 0) by `<image id>#<k>`.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.errors import InputError, one_line
from cusa_jax.files import written_whole
from cusa_jax.teachers.pickled import read_pickled_features

SUFFIXES = (".npz", ".npy")
# How many ids a message names before it counts.
SHOWN = 3


def is_feature_file(source: str) -> bool:
    """Whether `config.teacher.image` or `.text` names features that are stored, and no model."""
    return source.endswith(SUFFIXES) and not Path(source).is_dir()


def caption_keys(image_ids: Sequence[str], caption_image: np.ndarray) -> list[str]:
    """The ids of captions in a feature file; caption_image: int [N], the image number of each caption."""
    seen: collections.Counter[int] = collections.Counter()
    keys = []
    for image in caption_image.tolist():
        keys.append(f"{image_ids[image]}#{seen[image]}")
        seen[image] += 1
    return keys


def read_features(path: str | Path, ids: Sequence[str]) -> np.ndarray:
    """[len(ids), D], row n the feature of ids[n], float16 or float32 as stored (float64 is rounded).

    Raises InputError naming the ids whose feature is missing, of another length, not finite in float32 or too small
    for it: the reference goes on with zeros, which makes all samples equally alike (dataset/cross_coco_dataset.py:50).
    """
    path = Path(path)
    stored = _read_npz(path) if path.suffix == ".npz" else read_pickled_features(path)
    missing = [id_ for id_ in ids if id_ not in stored]
    if missing:
        raise InputError(
            f"{path}: no feature for {_some(missing)} (of {len(ids)}); compute them for these data"
        )

    width = stored[ids[0]].size
    half = all(stored[id_].dtype == np.float16 for id_ in ids)
    table = np.empty((len(ids), width), np.float16 if half else np.float32)
    # Smaller numbers have few digits left, and some devices take them for zero.
    bad, smallest = [], np.finfo(np.float32).tiny
    for row, id_ in zip(table, ids, strict=True):
        feature = stored[id_]
        if feature.dtype.kind != "f":
            raise InputError(
                f"{path}: the feature of {id_!r} holds {one_line(str(feature.dtype))}; it must be floating point"
            )
        if feature.shape not in {(width,), (1, width)}:
            raise InputError(
                f"{path}: the feature of {id_!r} is {_described(feature)}, "
                f"that of {ids[0]!r} has {width} numbers; all must be float [D] or [1, D] with one D"
            )
        # A float64 or a long double may lie outside of float32.
        with np.errstate(over="ignore"):
            row[:] = feature.reshape(-1)
        if not smallest <= np.abs(row).max(initial=0) < np.inf:
            bad.append(id_)
    if bad:
        raise InputError(f"{path}: the feature is all zero or not finite for {_some(bad)}; compute it again")
    return table


def write_features(path: str | Path, ids: Sequence[str], features: np.ndarray) -> None:
    """Writes an `.npz` that `read_features` reads; the file appears whole or not at all.

    ids: N different texts. features: float16 or float32 [N, D].
    """
    path = Path(path)
    if features.dtype not in (np.float16, np.float32) or features.shape[:-1] != (len(ids),):
        raise InputError(
            f"{path}: features must be float16 or float32 [{len(ids)}, D], not {_described(features)}"
        )
    with written_whole(path) as fresh, fresh.open("wb") as file:
        np.savez(file, ids=np.asarray(ids, dtype=str), features=features)


def _read_npz(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            # A member whose name or header is damaged comes as bytes.
            stored_ids, features = (_array(arrays, name) for name in ("ids", "features"))
            ids = stored_ids.tolist()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        # What a damaged file does to a parser cannot be foreseen.
        raise InputError(f"{path}: damaged, or without `ids` and `features` ({error!r})") from error
    if stored_ids.dtype.kind != "U" or features.ndim != 2 or stored_ids.shape != features.shape[:1]:
        raise InputError(
            f"{path}: needs `ids`, texts [N], and `features`, float [N, D]; "
            f"has {_described(stored_ids)} and {_described(features)}"
        )
    stored = dict(zip(ids, features, strict=True))
    if len(stored) < len(ids):
        repeated = [id_ for id_, count in collections.Counter(ids).items() if count > 1]
        raise InputError(f"{path}: more than one feature for {_some(repeated)}")
    return stored


def _array(arrays: Any, name: str) -> np.ndarray:
    value = arrays[name]
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is {type(value).__name__}, not an array")
    return value


def _described(array: np.ndarray) -> str:
    return one_line(f"{array.dtype}{list(array.shape)}")


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(repr(id_) for id_ in ids[:SHOWN])
    return shown if len(ids) <= SHOWN else f"{shown} and {len(ids) - SHOWN} more"
