"""WiSE-FT: the weighted mean of two models, and models that have none."""

import jax
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.mixing import mix

rng = np.random.default_rng(0)
FIRST, SECOND = (
    {
        "params": {"image": {"kernel": rng.normal(size=(3, 2)).astype(np.float32)}},
        "batch_stats": {"image": {"mean": rng.normal(size=2).astype(np.float32)}},
    }
    for _ in range(2)
)


def test_every_leaf_is_the_weighted_mean():
    mixed = mix(FIRST, SECOND, 0.3)
    expected = jax.tree.map(
        lambda x, y: np.average(np.stack([x, y]).astype(np.float64), axis=0, weights=[0.7, 0.3]),
        FIRST,
        SECOND,
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), mixed, expected)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(mixed))


@pytest.mark.parametrize(("weight", "model"), [(0, FIRST), (1, SECOND), (0.0, FIRST), (1.0, SECOND)])
def test_the_ends_are_the_models(weight, model):
    jax.tree.map(np.testing.assert_array_equal, mix(FIRST, SECOND, weight), model)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (SECOND | {"params": {"image": {"kernel": np.ones((3, 4))}}},
         r"params/image/kernel is \(3, 2\) in one, \(3, 4\) in the other"),
        ({"params": SECOND["params"]}, "only the first has batch_stats/image/mean"),
        (SECOND | {"params": SECOND["params"] | {"cross_image": {"bias": np.ones(2)}}},
         "only the second has params/cross_image/bias"),
    ],
)  # fmt: skip
def test_models_of_other_sizes_are_refused_at_the_first_path(second, message):
    with pytest.raises(InputError, match=message):
        mix(FIRST, second, 0.5)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_not_between_the_models_is_refused(weight):
    with pytest.raises(InputError, match="must be from 0, the first model, to 1, the second"):
        mix(FIRST, SECOND, weight)
