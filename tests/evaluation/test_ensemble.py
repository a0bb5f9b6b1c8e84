"""Several models as one: the mean of their scores, whole or in blocks, and what an ensemble cannot do."""

import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.evaluation.ensemble import Ensemble, mean_scores
from cusa_jax.evaluation.scores import Blocks, InnerProducts, Matrix
from cusa_jax.evaluation.sources import ArraySource

RNG = np.random.default_rng(0)
A, B = RNG.random((2, 7, 35)).astype(np.float32)


def blocks(values):
    return Blocks(values.shape, lambda m, n: values[np.ix_(m, n)], (3, 4))


@pytest.mark.parametrize("first", [Matrix, blocks])
@pytest.mark.parametrize("way", ["i2t", "t2i"])
def test_scores_are_the_mean(first, way):
    scores = mean_scores([first(A), Matrix(B)])
    mean = (A + B) / 2 if way == "i2t" else (A + B).T / 2
    np.testing.assert_allclose(scores.rows(way, np.arange(len(mean))), mean, rtol=1e-6)


def test_dual_encoders_average_too():
    images, texts = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    scores = mean_scores([InnerProducts(images, texts), Matrix(A[:5, :5])])
    np.testing.assert_allclose(
        scores.rows("i2t", np.arange(5)), (images @ texts.T + A[:5, :5]) / 2, rtol=1e-5, atol=1e-6
    )


def source(path, scores):
    np.savez(path, **{"flickr30k/scores": scores, "flickr30k/caption_image": np.arange(scores.shape[1]) // 5})
    return ArraySource(path)


def test_an_ensemble_is_a_source_of_scores_alone(tmp_path):
    both = Ensemble([source(tmp_path / "a.npz", A), source(tmp_path / "b.npz", B)])
    captioned = both.captioned("flickr30k", None)
    np.testing.assert_allclose(captioned.scores.rows("i2t", np.arange(7)), (A + B) / 2, rtol=1e-6)
    assert captioned.cross_head == "mean of 2 scores"
    assert captioned.uni_image is None
    for asked in (lambda: both.labelled("cub", None), lambda: both.sentences(["a"])):
        with pytest.raises(InputError, match="an ensemble has scores of pairs alone"):
            asked()


@pytest.mark.parametrize(
    ("key", "values"), [("image_ids", [5, 1, 2, 3, 4, 0, 6]), ("caption_image", np.arange(35) // 5 % 6)]
)
def test_scores_of_other_images_of_the_same_number_are_refused(tmp_path, key, values):
    same = {"scores": A, "caption_image": np.arange(35) // 5, "image_ids": np.arange(7)}
    for name, content in (("a", same), ("b", same | {key: np.array(values)})):
        np.savez(tmp_path / f"{name}.npz", **{f"flickr30k/{k}": value for k, value in content.items()})
    both = Ensemble([ArraySource(tmp_path / f"{name}.npz") for name in "ab"])
    with pytest.raises(InputError, match=rf"b\.npz: flickr30k/{key} differs from that of \S*a\.npz"):
        both.captioned("flickr30k", None)


def test_models_of_other_data_are_refused(tmp_path):
    both = Ensemble([source(tmp_path / "a.npz", A), source(tmp_path / "b.npz", B[:6, :30])])
    with pytest.raises(InputError, match="cannot be averaged"):
        both.captioned("flickr30k", None)
