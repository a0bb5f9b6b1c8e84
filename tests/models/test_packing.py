"""Captions in tiles: each whole and in one tile, no word lost or twice, and no more tiles than they need."""

import functools

import jax
import numpy as np
import pytest

from cusa_jax.models import packing

pack = jax.jit(packing.pack, static_argnames=("longest", "words", "slots"))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("longest", "words", "slots"), [(9, 9, 1), (9, 20, 4), (9, 64, 8), (9, 64, 2)])
def test_every_caption_is_whole_in_one_tile(seed, longest, words, slots):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, size=17).astype(np.int32)
    if seed == 0:
        lengths[:] = longest
    tiles = jax.device_get(pack(lengths, longest, words, slots))
    empty = 17 * longest
    for tile in range(len(tiles.words)):
        there = tiles.words[tile] < empty
        assert np.array_equal(tiles.owners[tile] == slots, ~there)
        owner = tiles.captions[tile, tiles.owners[tile, there]]
        assert np.array_equal(owner, tiles.words[tile, there] // longest)
    placed = np.sort(tiles.words[tiles.words < empty])
    expected = np.concatenate([n * longest + np.arange(length) for n, length in enumerate(lengths)])
    np.testing.assert_array_equal(placed, expected)
    for n in range(17):
        assert tiles.captions[tiles.tile[n], tiles.slot[n]] == n
    assert (tiles.captions < 17).sum() == 17
    # Next-fit, in order: what comes first in a tile would not have fitted into the one before.
    count = (tiles.captions < 17).sum(axis=1)
    filled = [lengths[tiles.captions[t, : count[t]]].sum() for t in range(len(count))]
    for t in np.flatnonzero(count)[1:]:
        assert count[t - 1] == slots or filled[t - 1] + lengths[tiles.captions[t, 0]] > words


def test_take_fills_empty_places_with_zeros():
    rows = np.arange(6.0).reshape(3, 2)
    taken = functools.partial(packing.take, rows)(np.array([2, 3, 0]))
    np.testing.assert_array_equal(taken, [[4, 5], [0, 0], [0, 1]])
