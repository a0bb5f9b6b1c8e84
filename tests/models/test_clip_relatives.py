"""CLIPs with other widths, heads and pixels than OpenAI's."""

import dataclasses
import math

import golden
import jax
import numpy as np
import pytest
from flax import traverse_util

from cusa_jax.inputs import Pixels
from cusa_jax.models import families
from cusa_jax.models.clip_sizes import PRESETS, ClipConfig
from cusa_jax.models.student import Options


@pytest.mark.parametrize(
    ("preset", "image_millions", "text_millions"),
    # As open_clip counts them (docs/model_profile.csv).
    [("vit_h_14", 632.08, 354.03), ("vit_g_14", 1012.65, 354.03), ("vit_bigg_14", 1844.91, 694.66)],
)
def test_parameter_counts(preset, image_millions, text_millions):
    student = families.make("clip", PRESETS[preset], Options(heads=()))
    shapes = jax.eval_shape(student.init, jax.random.key(0))["params"]
    counts = {
        side: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for side, tree in shapes.items()
    }
    assert counts["image"] / 1e6 == pytest.approx(image_millions, abs=0.0051)
    assert counts["text"] / 1e6 == pytest.approx(text_millions, abs=0.0051)


@pytest.mark.parametrize(("preset", "head_width"), [("vit_h_14", 80), ("vit_g_14", 88), ("vit_bigg_14", 104)])
def test_head_widths(preset, head_width):
    sizes = PRESETS[preset]
    assert sizes.vision_width / sizes.vision_heads == head_width
    assert sizes.text_width / sizes.text_heads == 64


def test_a_narrower_mlp_is_one_whose_other_units_are_silent():
    plain = dataclasses.replace(PRESETS["toy"], vocab_size=64)
    narrow = dataclasses.replace(plain, vision_mlp=24, text_mlp=40)
    models = {sizes: families.make("clip", sizes, Options(heads=())) for sizes in (plain, narrow)}
    variables = jax.tree.map(
        lambda leaf: 0.1 * np.random.default_rng(leaf.size).normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(models[narrow].init, jax.random.key(0)),
    )
    wide = traverse_util.flatten_dict(variables)
    for path, leaf in traverse_util.flatten_dict(
        jax.eval_shape(models[plain].init, jax.random.key(0))
    ).items():
        wide[path] = np.pad(
            wide[path], [(0, want - has) for want, has in zip(leaf.shape, wide[path].shape, strict=True)]
        )
    rows = {
        "image": np.arange(2 * 32 * 32 * 3).astype(np.uint8).reshape(2, 32, 32, 3),
        "text": np.arange(10).reshape(2, 5),
    }
    for side, inputs in rows.items():
        encode = [
            golden.jit(model.encode_side, static_argnums=1) for model in (models[narrow], models[plain])
        ]
        ours, padded = (
            encode[0](variables, side, inputs),
            encode[1](traverse_util.unflatten_dict(wide), side, inputs),
        )
        np.testing.assert_allclose(ours["cross"], padded["cross"], rtol=1e-5, atol=1e-6)
        assert np.abs(ours["cross"]).max() > 1e-3


def test_widths_that_are_not_said_are_openais():
    sizes = PRESETS["vit_b_32"]
    assert (sizes.vision_mlp, sizes.text_mlp) == (3072, 2048)
    assert dataclasses.replace(sizes, vision_mlp=3072, text_mlp=0) == sizes
    assert (PRESETS["rn50"].vision_mlp, PRESETS["rn50"].text_mlp) == (0, 2048)


def test_pixels_are_those_it_was_trained_on():
    half = (0.5, 0.5, 0.5)
    pixels = {"mean": half, "std": half, "resize": "squash", "resampling": "bilinear"}
    sizes = ClipConfig(**vars(PRESETS["vit_h_14"]) | pixels)
    assert families.make("clip", sizes, Options()).inputs.image == Pixels(224, **pixels)
