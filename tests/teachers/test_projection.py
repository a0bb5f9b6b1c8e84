"""Projected features keep their inner products."""

import jax
import jax.numpy as jnp
import numpy as np

from cusa_jax.inputs import Pixels
from cusa_jax.sharding import make_mesh, put_params, put_rows
from cusa_jax.teachers.projection import narrowed, project, project_rows
from cusa_jax.types import Teacher


def test_projection_keeps_inner_products():
    """Below full width with errors of the predicted size around zero."""
    draw = np.random.default_rng(4)
    features = (draw.normal(size=(200, 3000)) + 0.7 * draw.normal(size=3000)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    exact = features @ features.T
    others = ~np.eye(200, dtype=bool)
    for width in (300, 1500):
        found = np.asarray(project(features, width))
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
        error = (found @ found.T - exact)[others]
        predicted = (1 - exact[others].mean() ** 2) * np.sqrt((1 - width / 3000) / width)
        assert 0.8 < error.std() / predicted < 1.2
        assert abs(error.mean()) < predicted


def test_features_that_are_narrow_enough_stay_as_they_are():
    features = np.random.default_rng(5).normal(size=(3, 7)).astype(np.float16)
    for width in (0, 7, 8):
        assert project(features, width) is features
        assert project_rows(features, width) is features


def test_a_table_and_a_live_teacher_are_projected_alike():
    """More rows than are projected at once, of two bytes a number; live, every device projects its own rows."""
    features = np.random.default_rng(6).normal(size=(304, 40)).astype(np.float16)
    expected = np.asarray(project(jnp.asarray(features, jnp.float32), 9))
    assert expected.shape == (304, 9)
    np.testing.assert_allclose(project_rows(features, 9), expected, rtol=1e-5, atol=1e-5)
    mesh = make_mesh()
    teacher = Teacher("linear", lambda w, x: x @ w, "pixels", Pixels(8))
    assert narrowed(teacher, 0, mesh) is teacher
    found = narrowed(teacher, 9, mesh)
    assert found.image == Pixels(8)
    arguments = put_params(np.eye(40, dtype=np.float32), mesh), put_rows(features.astype(np.float32), mesh)
    compiled = jax.jit(found.apply).lower(*arguments).compile()
    assert "all-gather" not in compiled.as_text()
    np.testing.assert_allclose(compiled(*arguments), expected, rtol=1e-5, atol=1e-5)
