"""CLIP's text tower over features: each side against the module that it is made of."""

import jax
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.inputs import Regions
from cusa_jax.models import families
from cusa_jax.models.clip import TextTransformer
from cusa_jax.models.region_clip import RegionClipSizes
from cusa_jax.models.student import Embeds, Options

SIZES = RegionClipSizes(
    regions=3, img_dim=6, embed_dim=8, text_width=64, text_layers=1, vocab_size=20, context_length=7
)


def test_each_side_is_what_it_is_made_of():
    student = families.make("region_clip", SIZES, Options(()))
    assert isinstance(student, Embeds)
    assert student.inputs.image == Regions(3, 6)
    variables = jax.tree.map(np.asarray, jax.jit(student.init)(jax.random.key(0)))
    rng = np.random.default_rng(0)
    regions, tokens = rng.normal(size=(4, 3, 6)).astype(np.float32), rng.integers(1, 20, (4, 7))
    encoded = jax.jit(student.encode)(variables, regions, tokens)[0]
    fc = variables["params"]["image"]["fc"]
    image = regions.mean(axis=1) @ fc["kernel"] + fc["bias"]
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text = TextTransformer(SIZES, False, np.float32).apply({"params": variables["params"]["text"]}, tokens)
    np.testing.assert_allclose(encoded["image"]["cross"], image, atol=1e-6)
    np.testing.assert_allclose(encoded["text"]["cross"], text, atol=1e-6)


def test_sizes_are_read_back_and_checked():
    described = families.describe("region_clip", SIZES)
    assert families.read_description(described, "here") == ("region_clip", SIZES)
    with pytest.raises(InputError, match="img_dim is 0"):
        families.edited(SIZES, "img_dim=0")
    with pytest.raises(InputError, match="a CLIP has a tokenizer of its own"):
        families.make("region_clip", SIZES, Options(tokenizer="vocab.json"))
