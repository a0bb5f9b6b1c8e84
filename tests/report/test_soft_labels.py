"""The heat maps show the similarities of the first training batch, alike samples together."""

import jax
import numpy as np
import pytest

from cusa_jax import experiment, similarity
from cusa_jax.config import default_config, validate
from cusa_jax.report import soft_labels
from cusa_jax.teachers.apply import teacher_features
from cusa_jax.types import Embeddings


def test_alike_samples_are_put_together():
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat([0, 1], 12))
    noise = rng.normal(0, 0.05, (24, 24))
    alike = (group[:, None] == group) * 0.8 + noise + noise.T
    ordered = group[soft_labels._like_by_like(alike)]
    assert np.count_nonzero(np.diff(ordered)) == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = default_config()
    config.model.name = "toy"
    config.data.path = str(tmp_path_factory.mktemp("data") / "world")
    config.data.world.update(train=8, val=4, test=4)
    config.batch_size = config.loss.local_batch = 16
    config.loss.negatives = "global"
    teachers = experiment.__file__.replace("experiment.py", "assets/world_teachers/")
    config.teacher.image, config.teacher.text = teachers + "image", teachers + "text"
    return experiment.build(validate(config))


def test_teachers_and_student_are_compared_on_the_first_batch(run, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        soft_labels, "heat_map", lambda title, matrix: drawn.setdefault(f"{title} {len(drawn)}", matrix)
    )
    next(run.batches)  # the comparison must not depend on how far the run has come
    found = soft_labels.compare(*soft_labels.of_first_batch(run, run.initial_state().variables))

    run.batches.set_state({"step": 0})
    batch = next(run.batches)
    recipe, variables = run.recipe, run.initial_state().variables
    embed = jax.jit(recipe.student.embed, static_argnums=1)
    image, text = embed(variables, "image", batch.image), embed(variables, "text", batch.tokens)
    student = similarity.student(Embeddings(image[0], text[0], image[1], text[1]))
    teacher = similarity.teacher(*teacher_features(recipe.teachers, run.teacher_params, batch))
    expected = [teacher.image, student.image_image, teacher.text, student.text_text, student.image_text]
    for ours, matrix in zip(drawn.values(), expected, strict=True):
        assert ours.shape == (16, 16)
        np.testing.assert_allclose(np.sort(ours, None), np.sort(matrix, None), atol=1e-5)
    others = ~np.eye(16, dtype=bool)
    for comparison, (ours, theirs) in zip(found, ((1, 0), (3, 2)), strict=False):
        r = np.corrcoef(np.asarray(expected[ours])[others], np.asarray(expected[theirs])[others])[0, 1]
        assert comparison.agreement == pytest.approx(r, abs=1e-4)
    assert found[2].agreement is None
