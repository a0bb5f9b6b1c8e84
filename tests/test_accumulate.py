"""A step in micro-batches is the step of the whole batch, and remembers less."""

import dataclasses
import functools

import golden
import jax
import numpy as np
import optax
import pytest

from cusa_jax import sharding
from cusa_jax.accumulate import in_micro_batches
from cusa_jax.config import default_config, typed, validate
from cusa_jax.data.images import normalise
from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.models import clip
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.student import Options
from cusa_jax.step import Recipe, init_state, make_recipe, train_step
from cusa_jax.teachers.stored import stored_teacher
from cusa_jax.types import Batch, Teacher, Teachers

ROWS = 32
SMALL = ClipConfig(
    embed_dim=16, image_size=16, patch_size=8, vision_width=32, vision_layers=1, vision_heads=2,
    text_width=32, text_layers=1, text_heads=2, context_length=8, vocab_size=32,
)  # fmt: skip


def recipe(micro_batches=1, mesh=None, tile=0, **settings) -> tuple[Recipe, dict]:
    """All losses, a live image teacher, looked-up text features. settings: of `config.optim`."""
    config = default_config()
    config.optim.update(settings)
    config.loss.tile = tile
    config.loss.csa.weight = config.loss.usa.weight = 4.0
    config.loss.csa.teacher_tau.trainable = True
    rng = np.random.default_rng(1)
    weights, table = rng.normal(size=(16 * 16 * 3, 24)), rng.normal(size=(ROWS, 12))

    def apply(weights, pixels):
        return normalise(pixels).reshape(len(pixels), -1) @ weights

    image = Teacher("image", apply, "pixels", Pixels(16))
    text, text_params = stored_teacher(
        "text", table.astype(np.float32), mesh or sharding.make_mesh(1, jax.devices()[:1])
    )
    spec = make_recipe(
        clip.student(SMALL, Options()),
        typed(config).loss,
        config.optim,
        np.full(3, 1e-2),
        teachers=Teachers(image, text),
        # By the mean of the whole batch, wherever its rows are.
        centre_teachers=True,
        micro_batches=micro_batches,
        mesh=mesh,
    )
    params = {"image": weights.astype(np.float32), "text": text_params}
    return spec, params


def batch() -> Batch:
    rng = np.random.default_rng(2)
    numbers = np.arange(ROWS, dtype=np.int32)
    return Batch(
        image=rng.integers(0, 256, (ROWS, 16, 16, 3), np.uint8),
        tokens=rng.integers(1, 31, (ROWS, 8), np.int32),
        image_index=rng.integers(0, 20, ROWS).astype(np.int32),
        caption_index=numbers,
        teacher_index_image=numbers,
        teacher_index_text=numbers,
    )


@functools.cache
def compiled_and_result(micro_batches, devices, tile=0):
    mesh = None if devices == 1 else sharding.make_mesh(fsdp=2)
    spec, teachers = recipe(micro_batches, mesh, tile)
    # The update is the gradient itself.
    spec = dataclasses.replace(spec, optimizer=optax.sgd(1.0))
    state = init_state(spec, jax.jit(spec.student.init)(jax.random.key(0)))
    arguments = state, teachers, batch()
    if mesh is not None:
        arguments = *(sharding.put_params(x, mesh) for x in arguments[:2]), sharding.put_batch(batch(), mesh)
    compiled = golden.jit(functools.partial(train_step, recipe=spec)).lower(*arguments).compile()
    after, metrics = jax.device_get(compiled(*arguments))
    gradients = jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), state.params, after.params)
    return compiled, metrics, gradients


@pytest.mark.parametrize(("micro_batches", "devices", "tile"), [(4, 1, 0), (4, 8, 3)])
def test_the_step_equals_that_of_the_whole_batch(micro_batches, devices, tile):
    _, metrics, gradients = compiled_and_result(micro_batches, devices, tile)
    _, expected_metrics, expected = compiled_and_result(1, 1)
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    for (path, theirs), ours in zip(
        jax.tree.leaves_with_path(expected), jax.tree.leaves(gradients), strict=True
    ):
        scale = np.abs(theirs).max() + 1e-6  # gradients are differences of parameters of order 1
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * scale + 3e-7, err_msg=str(path))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected["model"]))


def three_steps(micro_batches, tile, mesh):
    """The state after three steps of LoRA with layer-wise decay, an average, and a part that starts at the second."""
    settings = {"lora_rank": 2, "layer_decay": 0.5, "ema": 0.9, "rules": "cross_text/.* after=1", "eps": 1e-3}
    spec, teachers = recipe(micro_batches, mesh, tile, **settings)
    state = init_state(spec, jax.jit(spec.student.init)(jax.random.key(0)))
    state, teachers = sharding.put_params(state, mesh), sharding.put_params(teachers, mesh)
    step = golden.jit(functools.partial(train_step, recipe=spec))
    for _ in range(3):
        state, _ = step(state, teachers, sharding.put_batch(batch(), mesh))
    return jax.device_get(state)


def test_recipes_of_fine_tuning_compute_the_same_in_parts():
    """Four micro-batches in tiles over eight devices, two of which share the parameters, and one device."""
    whole = three_steps(1, 0, sharding.make_mesh(1, jax.devices()[:1]))
    parts = three_steps(4, 3, sharding.make_mesh(fsdp=2))
    for (path, theirs), ours in zip(jax.tree.leaves_with_path(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5, err_msg=str(path))
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(whole.params["lora"]))


def test_activations_of_one_micro_batch_at_a_time():
    whole, parts = (compiled_and_result(n, 1)[0].memory_analysis().temp_size_in_bytes for n in (1, 4))
    assert parts < 0.6 * whole


def test_rows_are_in_memory_once():
    """Neither the loop nor its backward pass keeps copies of the pixels, which outweigh everything else here."""
    rows = jax.ShapeDtypeStruct((64, 1 << 16), np.uint8)

    def loss(weight, rows):
        return in_micro_batches(
            lambda x, _: jax.numpy.tanh(x.mean(1, dtype=np.float32) * weight), rows, 16
        ).sum()

    compiled = jax.jit(jax.grad(loss)).lower(1.0, rows).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * rows.size


def test_parts_of_unequal_size_are_refused():
    config = default_config()
    config.batch_size, config.accumulate = 10, 4
    with pytest.raises(InputError, match=r"config.batch_size=10 is not a multiple of accumulate=4"):
        validate(config)
