"""What the teachers and the student make of the same samples, side by side."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from cusa_jax import sharding, similarity
from cusa_jax.report.plots import Plot, heat_map
from cusa_jax.step import frozen_features
from cusa_jax.types import Array, Batch, Params, Similarities, SoftLabels

# More cannot be told apart on a screen.
_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Heat maps of one kind of pairs. agreement: Pearson's r of the two over pairs of different samples, or None."""

    title: str
    plots: list[Plot]
    agreement: float | None = None


def compare(student: Similarities, teacher: SoftLabels) -> list[Comparison]:
    """The same samples as the student and as the teachers see them, [B, B] each; the first rows are shown.

    They are ordered so that samples that the teachers find alike stand together.
    """
    image, text = (np.asarray(matrix)[:_ROWS, :_ROWS] for matrix in (teacher.image, teacher.text))
    order = _like_by_like(image + text)

    def ordered(matrix: Array) -> np.ndarray:
        return np.asarray(matrix)[np.ix_(order, order)]

    pairs = [
        ("Images with images (USA)", teacher.image, student.image_image),
        ("Captions with captions (USA)", teacher.text, student.text_text),
    ]
    return [
        *(
            _pair(title, ordered(ours), ordered(theirs))
            for title, ours, theirs in pairs
            if theirs is not None
        ),
        Comparison("Images with captions (CSA)", [heat_map("Student", ordered(student.image_text))]),
    ]


def of_first_batch(run: Any, variables: Params) -> tuple[Similarities, SoftLabels] | None:
    """Both, of the first batch of a training; None without teachers. variables: the model's, on the mesh.

    run: an `experiment.Experiment`.
    """
    if run.recipe.teachers is None:
        return None

    def similarities(
        variables: Params, teacher_params: Params, batch: Batch
    ) -> tuple[Similarities, SoftLabels]:
        student = run.recipe.student
        encoded, _ = student.encode(variables, batch.image, batch.tokens)
        compared, _ = student.compare(variables, encoded)
        features = frozen_features(teacher_params, batch, run.recipe)
        assert features is not None
        return compared, similarity.teacher(*features)

    run.batches.set_state({"step": 0})
    batch = sharding.put_batch(next(run.batches), run.mesh)
    both = jax.jit(similarities)(variables, run.teacher_params, batch)
    return jax.tree.map(sharding.fetch, both)


def _pair(title: str, teacher: np.ndarray, student: np.ndarray) -> Comparison:
    others = ~np.eye(len(teacher), dtype=bool)
    agreement = float(np.corrcoef(teacher[others], student[others])[0, 1])
    return Comparison(title, [heat_map("Teacher", teacher), heat_map("Student", student)], agreement)


def _like_by_like(similarities: np.ndarray) -> np.ndarray:
    """Spectral ordering: by the eigenvector that best splits the samples into two groups of alike ones."""
    laplacian = np.diag(similarities.sum(1)) - similarities
    return np.argsort(np.linalg.eigh(laplacian)[1][:, 1], kind="stable")
