"""Interpolated positions against Pillow's bicubic filter, and models at another resolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cusa_jax.errors import InputError
from cusa_jax.models import families
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.clip_sizes import PRESETS
from cusa_jax.models.positions import at_image_size, resize, resize_as_torch
from cusa_jax.models.siglip_sizes import SiglipSizes
from cusa_jax.models.student import Options

RESNET = ClipConfig(
    embed_dim=8, image_size=64, patch_size=32, vision_width=2, vision_layers=0, resnet_blocks=(1, 1, 1, 1),
    text_width=64, text_layers=1, vocab_size=16,
)  # fmt: skip
SIGLIP = SiglipSizes(
    image_size=30, patch_size=7, vision_width=8, vision_layers=1, vision_heads=2, vision_mlp=12,
    text_width=8, text_layers=1, text_heads=2, text_mlp=12, vocab_size=16, context_length=4,
)  # fmt: skip


def pillow(table: np.ndarray, grid: int, new_grid: int) -> np.ndarray:
    """float32 [grid², W] -> [new_grid², W], channel by channel."""
    channels = [Image.fromarray(channel.reshape(grid, grid)) for channel in np.ascontiguousarray(table.T)]
    resized = [image.resize((new_grid, new_grid), Image.Resampling.BICUBIC) for image in channels]
    return np.stack([np.asarray(image).ravel() for image in resized], axis=1)


@pytest.mark.parametrize(("grid", "new_grid"), [(7, 12), (14, 9), (16, 24), (4, 1)])
@pytest.mark.parametrize("kept", [0, 1])
def test_the_grid_is_interpolated_as_pillow_interpolates_a_picture(grid, new_grid, kept):
    table = np.random.default_rng(0).normal(size=(kept + grid**2, 3)).astype(np.float32)
    resized = resize(table, grid, new_grid)
    assert resized.dtype == np.float32
    assert (resized[:kept] == table[:kept]).all()
    # Values are of size 1, and jax computes its weights in float32.
    np.testing.assert_allclose(resized[kept:], pillow(table[kept:], grid, new_grid), atol=1e-5)


def test_the_same_grid_stays_as_it_is():
    table = np.ones((50, 4), np.float32)
    assert resize(table, 7, 7) is table
    assert resize_as_torch(table, 7, 7) is table


# torch.nn.functional.interpolate(mode='bicubic', align_corners=False), torch 2.13, of (0, 1, ..., 24)² on 5 x 5.
TORCH_3 = [
    4.524005486968423, 12.888888888888857, 27.47599451303152, 105.33333333333331, 144.0, 188.88888888888894,
    361.69821673525377, 430.6666666666667, 505.8573388203021,
]  # fmt: skip
TORCH_6 = [
    -1.3378706567081422, -1.2067023383246542, 0.19083106272504582, 3.227282363200869, 8.050452338324652,
    12.926412323374802,
]  # fmt: skip


def test_the_other_kernel_is_torch_s():
    kept = np.full((1, 1), 7.0)
    table = np.concatenate([kept, np.arange(25.0)[:, None] ** 2])
    np.testing.assert_allclose(resize_as_torch(table, 5, 3)[:, 0], [7, *TORCH_3], rtol=1e-6)
    np.testing.assert_allclose(resize_as_torch(table, 5, 6)[1:7, 0], TORCH_6, rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "sizes", "image_size", "rows"),
    [("clip", PRESETS["toy"], 48, 37), ("clip", RESNET, 96, 10), ("siglip", SIGLIP, 45, 36)],
    ids=["vit", "resnet", "siglip"],
)
def test_a_model_takes_pictures_of_another_size(family, sizes, image_size, rows):
    options = Options(heads=())
    model = families.make(family, sizes, options)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    resized, larger = at_image_size(variables, sizes, image_size)
    assert larger.image_size == image_size
    image = resized["params"]["image"]
    np.testing.assert_allclose(image.get("attnpool", image)["position_embedding"], 0.5, rtol=1e-6)
    assert len(image.get("attnpool", image)["position_embedding"]) == rows

    # All else is the same, and fits the larger model.
    expected = jax.eval_shape(families.make(family, larger, options).init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, resized) == jax.tree.map(jnp.shape, expected)
    encode = functools.partial(families.make(family, larger, options).encode_side, side="image")
    jax.eval_shape(encode, resized, rows=np.zeros((1, image_size, image_size, 3), np.uint8))


def test_a_size_that_clips_patches_do_not_tile_is_refused():
    with pytest.raises(InputError, match="image_size 50 is not a multiple of patch_size 8"):
        at_image_size({}, PRESETS["toy"], 50)


@pytest.mark.parametrize("image_size", [0, 32])
def test_a_model_at_its_own_size_stays_as_it_is(image_size):
    variables = {"params": {}}
    assert at_image_size(variables, PRESETS["toy"], image_size) == (variables, PRESETS["toy"])


def test_pictures_smaller_than_a_patch_are_refused():
    with pytest.raises(
        InputError, match=r"config\.model\.image_size=6 is less than a patch, 7 pixels a side"
    ):
        at_image_size({}, SIGLIP, 6)


def test_a_model_over_regions_has_no_image_size():
    with pytest.raises(InputError, match=r"config\.model\.image_size=224: the model takes no pictures"):
        at_image_size({}, families.presets()["saf"][1], 224)
