"""Counted FLOPs are those of the mathematics."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from cusa_jax import sharding
from cusa_jax.benchmark import flops

PRODUCT = 2 * 64 * 128 * 128


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def loop(times):
    return lambda x, y: jax.lax.fori_loop(0, times, lambda _, x: x @ y, x)


def branch(x, y):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ y @ y, lambda: x @ y)


def until_large(x, y):
    return jax.lax.while_loop(lambda x: x[0, 0] < 1e6, lambda x: x @ y, x)


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (jnp.matmul, 1),
        (loop(5), 5),
        (jax.jit(loop(5)), 5),
        (branch, 2),
        (jax.grad(lambda x, y: (x @ y).sum(), argnums=(0, 1)), 3),
        (jax.grad(lambda x, y: jax.checkpoint(jnp.matmul)(x, y).sum(), argnums=(0, 1)), 3),
        (lambda x, y: x + y[:64], 0),
    ],
)
def test_products(function, products):
    assert flops.count(function, shape(64, 128), shape(128, 128)) == products * PRODUCT


def test_a_batch_of_products():
    heads = (shape(8, 16, 4, 32), shape(8, 20, 4, 32))
    count = flops.count(lambda query, key: jnp.einsum("bqhd,bkhd->bhqk", query, key), *heads)
    assert count == 2 * 8 * 4 * 16 * 20 * 32


def test_a_loop_whose_length_is_computed_is_not_counted():
    assert math.isnan(flops.count(until_large, shape(64, 128), shape(128, 128)))


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_a_convolution_cost_as_much_as_it(stride):
    def loss(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ).sum()

    image, kernel = shape(4, 16, 16, 8), shape(stride, stride, 8, 32)
    forward = 2 * 4 * (16 // stride) ** 2 * 32 * stride**2 * 8
    assert flops.count(loss, image, kernel) == forward
    assert flops.count(jax.grad(loss, argnums=(0, 1)), image, kernel) == 3 * forward


def test_every_device_counts():
    mesh = sharding.make_mesh(1)
    split = PartitionSpec(mesh.axis_names)
    product = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split)
    assert flops.count(product, shape(64, 128), shape(128, 128)) == PRODUCT
