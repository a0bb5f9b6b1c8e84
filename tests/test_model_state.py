"""A ResNet's running statistics through the train step, shardings, checkpoints and evaluation; a ViT has none."""

import contextlib
import dataclasses
import functools

import golden
import grain
import jax
import numpy as np
import pytest

from cusa_jax import sharding, step
from cusa_jax.checkpoint import Checkpoints
from cusa_jax.config import default_config, typed
from cusa_jax.data.images import normalise
from cusa_jax.models import clip
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.student import Options
from cusa_jax.types import Batch

ROWS = 16
COMMON = {"embed_dim": 16, "image_size": 64, "patch_size": 32, "text_width": 64, "text_layers": 1,
          "context_length": 8, "vocab_size": 64}  # fmt: skip
SIZES = {
    "resnet": ClipConfig(**COMMON, vision_width=4, vision_layers=0, resnet_blocks=(1, 1, 1, 1)),
    "vit": ClipConfig(**COMMON, vision_width=64, vision_layers=1),
}


def batch() -> Batch:
    rng = np.random.default_rng(0)
    index = np.arange(ROWS, dtype=np.int32)
    tokens = rng.integers(1, 63, size=(ROWS, 8)).astype(np.int32)
    image = rng.integers(0, 256, size=(ROWS, 64, 64, 3)).astype(np.uint8)
    return Batch(image, tokens, index, index, index, index)


@functools.cache
def recipe(tower: str) -> step.Recipe:
    config = default_config()
    config.loss.csa.weight = config.loss.usa.weight = 0.0
    student = clip.student(SIZES[tower], Options(heads=("cross",)))
    return step.make_recipe(student, typed(config).loss, config.optim, np.full(4, 1e-3))


@functools.cache
def start(tower: str):
    variables = golden.jit(recipe(tower).student.init)(jax.random.key(0))
    return jax.device_get(step.init_state(recipe(tower), variables))


@functools.cache
def trained(tower: str, devices: int):
    """(state, metrics) after one step."""
    with jax.default_device(jax.devices()[0]):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]).reshape(devices, 1), ("data", "fsdp"))
    one = golden.jit(functools.partial(step.train_step, recipe=recipe(tower)))
    return jax.device_get(
        one(sharding.put_params(start(tower), mesh), None, sharding.put_batch(batch(), mesh))
    )


def test_a_step_moves_the_running_statistics():
    before, after = start("resnet"), trained("resnet", 1)[0]
    assert before.model_state.keys() == after.model_state.keys() == {"batch_stats"}
    moved = jax.tree.map(lambda a, b: (a != b).all(), before.model_state, after.model_state)
    assert all(jax.tree.leaves(moved))
    # Fresh norms have mean 0, and move a tenth of the way to the batch's.
    images = normalise(batch().image)
    stem = before.params["model"]["image"]["conv1"]["kernel"]
    out = jax.lax.conv_general_dilated(
        images, stem, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    theirs = after.model_state["batch_stats"]["image"]["bn1"]["mean"]
    np.testing.assert_allclose(theirs, 0.1 * out.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_statistics_are_those_of_the_global_batch_on_any_number_of_devices():
    one, eight = trained("resnet", 1), trained("resnet", 8)
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(one[1][name], eight[1][name], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        one[0].model_state,
        eight[0].model_state,
    )


def test_a_vit_has_no_state_beside_its_parameters():
    assert start("vit").model_state == trained("vit", 1)[0].model_state == {}
    assert trained("vit", 1)[0].variables.keys() == {"params"}


def test_evaluation_uses_the_running_statistics():
    """Features do not depend on the rest of the batch, and do on the statistics."""
    state, student = trained("resnet", 1)[0], recipe("resnet").student
    encode = golden.jit(lambda variables, images: student.embed(variables, "image", images))
    whole, _ = encode(state.variables, batch().image)
    alone, _ = encode(state.variables, batch().image[:1])
    np.testing.assert_allclose(alone, whole[:1], atol=1e-5)
    fresh, _ = encode({**state.variables, **start("resnet").model_state}, batch().image)
    assert np.abs(fresh - whole).max() > 1e-3


@pytest.mark.parametrize("tower", SIZES)
def test_checkpoints_keep_the_state(tower, tmp_path):
    state = jax.tree.map(jax.numpy.asarray, trained(tower, 1)[0])
    batches = iter(grain.MapDataset.range(3).to_iter_dataset())
    with contextlib.closing(
        Checkpoints(tmp_path, {"config": default_config().to_dict()}, keep=1)
    ) as checkpoints:
        checkpoints.save(state, batches, {"best": {}})
        checkpoints.save_best(1, state, {"r_mean": 1.0})
        checkpoints.wait()
        template = jax.tree.map(jax.numpy.zeros_like, state)
        restored, _ = checkpoints.restore(template, batches)
        variables = checkpoints.restore_best(1, template)
    same = functools.partial(jax.tree.map, np.testing.assert_array_equal)
    same(restored, state)
    same(variables, state.variables)


def test_a_frozen_tower_is_encoded_as_in_evaluation():
    """Its running statistics stay, and they are what its features are computed with."""
    frozen = dataclasses.replace(
        recipe("resnet"),
        treatments={
            path: dataclasses.replace(treatment, train=treatment.train and path[1] != "image")
            for path, treatment in recipe("resnet").treatments.items()
        },
    )
    assert frozen.sides == ("text",)
    variables = start("resnet").variables
    encode = golden.jit(lambda key: step.encode(variables, batch(), key, frozen))
    encoded, after = encode(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, after, variables)
    expected, _ = frozen.student.embed(variables, "image", batch().image)
    np.testing.assert_allclose(encoded["image"]["cross"], expected, rtol=1e-4, atol=1e-4)
