"""What the teachers and the student make of the same samples, side by side."""

from __future__ import annotations

import dataclasses
import functools
from typing import cast

import jax
import numpy as np

from cusa_jax import sharding, similarity
from cusa_jax.data.images import normalise
from cusa_jax.experiment import Experiment
from cusa_jax.report.figures import Figure, heat_map
from cusa_jax.step import Recipe, frozen_features
from cusa_jax.types import Batch, Embeddings, Params, Similarities, SoftLabels

_ROWS = 64  # more cannot be told apart on a screen


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Heat maps of one kind of pairs. agreement: Pearson's r of the two over pairs of different samples, or None."""

    title: str
    figures: list[Figure]
    agreement: float | None = None


def compare(run: Experiment, variables: Params) -> list[Comparison]:
    """The first rows of the first training batch. Empty without teachers.

    variables: the model's, on the mesh. Rows are ordered so that samples that the teachers find alike stand together.
    """
    if run.recipe.teachers is None:
        return []
    run.batches.set_state({"step": 0})
    batch = sharding.put_batch(next(run.batches), run.mesh)
    both = jax.jit(functools.partial(_similarities, recipe=run.recipe))(variables, run.teacher_params, batch)
    student, teacher = jax.tree.map(lambda x: sharding.fetch(x)[:_ROWS, :_ROWS], both)
    order = _like_by_like(teacher.image + teacher.text)
    student, teacher = jax.tree.map(lambda x: x[np.ix_(order, order)], (student, teacher))
    return [
        _pair("Images with images (USA)", teacher.image, student.image_image),
        _pair("Captions with captions (USA)", teacher.text, student.text_text),
        Comparison("Images with captions (CSA)", [heat_map("Student", student.image_text)]),
    ]


def _similarities(
    variables: Params, teacher_params: Params, batch: Batch, *, recipe: Recipe
) -> tuple[Similarities, SoftLabels]:
    pixels = normalise(batch.image)
    embeddings = cast(Embeddings, recipe.model.apply(variables, pixels, batch.tokens))
    features = frozen_features(teacher_params, batch, recipe)
    assert features is not None
    return similarity.student(embeddings), similarity.teacher(*features)


def _pair(title: str, teacher: np.ndarray, student: np.ndarray) -> Comparison:
    others = ~np.eye(len(teacher), dtype=bool)
    agreement = float(np.corrcoef(teacher[others], student[others])[0, 1])
    return Comparison(title, [heat_map("Teacher", teacher), heat_map("Student", student)], agreement)


def _like_by_like(similarities: np.ndarray) -> np.ndarray:
    """Spectral ordering: by the eigenvector that best splits the samples into two groups of alike ones."""
    laplacian = np.diag(similarities.sum(1)) - similarities
    return np.argsort(np.linalg.eigh(laplacian)[1][:, 1], kind="stable")
