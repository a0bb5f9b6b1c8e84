"""A checksum changes with every bit and every exchange, and not with the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import checksum, sharding

RANDOM = np.random.default_rng(0)


def expected(array: np.ndarray) -> int:
    """The definition of `checksum.py` in Python's own integers."""
    words = (
        np.ascontiguousarray(array).view({1: np.uint8, 2: np.uint16}.get(array.itemsize, np.uint32)).ravel()
    )
    total = 0
    for position, word in enumerate(words.tolist()):
        mixed = (word + position * 0x9E3779B9) % 2**32
        for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
            mixed = (mixed ^ (mixed >> shift)) * factor % 2**32
        total += mixed ^ (mixed >> 15)
    return total % 2**32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool", "int8"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4), (0, 3)])
def test_it_is_what_its_definition_says(dtype, shape):
    array = np.asarray(RANDOM.integers(0, 2, shape) if dtype == "bool" else 9 * RANDOM.standard_normal(shape))
    array = np.asarray(jnp.asarray(array).astype(dtype))
    assert checksum.checksums([jnp.asarray(array)]) == [expected(array)]


def test_numbers_of_eight_bytes_count_as_two_words():
    array = RANDOM.standard_normal((3, 4))
    with jax.enable_x64(True):
        assert checksum.checksums([jnp.asarray(array)]) == [expected(array)]


def test_every_bit_and_every_exchange_shows():
    array = RANDOM.standard_normal((4, 8)).astype(np.float32)
    before = checksum.checksums([array])
    for bit in range(32 * array.size):
        flipped = array.copy()
        flipped.view(np.uint32).ravel()[bit // 32] ^= np.uint32(1 << bit % 32)
        assert checksum.checksums([flipped]) != before
    flat = array.ravel()
    flat[1] = -flat[0]  # they differ in the highest bit alone, which any even factor would lose
    before = checksum.checksums([array])
    for first in range(array.size):
        for second in range(first):
            swapped = flat.copy()
            swapped[[first, second]] = flat[[second, first]]
            assert checksum.checksums([swapped]) != before
            assert checksum.sums_of_old([swapped]) == checksum.sums_of_old([flat])


def test_transposing_and_exchanging_leaves_shows():
    a, b = RANDOM.standard_normal((2, 4, 4)).astype(np.float32)
    assert checksum.checksums([a, b]) == checksum.checksums([b, a])[::-1]
    assert len({*checksum.checksums([a, a.T, b])}) == 3


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_it_does_not_depend_on_the_mesh(fsdp):
    tree = {"w": RANDOM.standard_normal((16, 24)).astype(np.float32), "b": np.arange(5, dtype=np.float32)}
    mesh = sharding.make_mesh(fsdp)
    assert checksum.checksums(sharding.put_params(tree, mesh)) == checksum.checksums(tree)
