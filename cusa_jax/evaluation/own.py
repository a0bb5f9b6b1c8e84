"""Suites of one's own data under one's own name: retrieval of captions, or zero-shot classification of classes."""

from __future__ import annotations

import re
from pathlib import Path

from cusa_jax.data.classes import has_class_folders, has_labels
from cusa_jax.data.layouts import find_captions
from cusa_jax.errors import InputError
from cusa_jax.evaluation.recall import recall_suite
from cusa_jax.evaluation.suite import Dataset, Suite
from cusa_jax.evaluation.suites import SUITES
from cusa_jax.evaluation.zero_shot import zero_shot_suite


def own_suite(name: str, path: str) -> Suite:
    """The suite `name` of what lies at `path`: the test split of captions in any layout, or images by class.

    Raises InputError for a name that is taken or no word, and where neither lies there.
    """
    if name in SUITES:
        raise InputError(
            f"--suite={name}={path}: '{name}' is a suite already; give yours another name, or its data by --data"
        )
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"--suite={name}={path}: a name is letters, digits, _ and -")
    place = Path(path)
    data = own_dataset(name)
    if has_labels(place):
        return zero_shot_suite(name, name, data)
    try:
        find_captions(place, "test")
    except InputError:
        if has_class_folders(place):
            return zero_shot_suite(name, name, data)
        raise
    return recall_suite(name, name, data)


def own_dataset(name: str) -> Dataset:
    """Data of one's own, whose pictures a model sees as it saw its training's."""
    return Dataset(name, (name,), "it holds what you named", own=True)
