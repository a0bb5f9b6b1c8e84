"""Captions of any lengths, packed into tiles of so many words: nothing is computed for padding.

A tile is as much as is in memory at once. Captions keep their order, and none is split.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Tiles:
    """T tiles of W words and K captions each. An empty place holds the number behind the last one.

    words: int32 [T, W], numbers of words in the padded captions, row by row: caption * L + position.
    owners: int32 [T, W], the slot, in its tile, of the caption that a word belongs to.
    captions: int32 [T, K], numbers of captions, by slot.
    tile, slot: int32 [C], where each caption is.
    """

    words: jax.Array
    owners: jax.Array
    captions: jax.Array
    tile: jax.Array
    slot: jax.Array


def pack(lengths: jax.Array, longest: int, words: int, slots: int) -> Tiles:
    """Tiles of at most `words` words and `slots` captions. lengths: int32 [C], none over `longest` <= words.

    The number of tiles is what the longest captions would need; with shorter ones, the last tiles are empty.
    """
    count = len(lengths)
    tiles = -(-count // min(slots, words // longest))
    tile, start, slot = _places(lengths, words, slots)
    position = jnp.arange(longest)
    place = jnp.where(position < lengths[:, None], (tile * words + start)[:, None] + position, tiles * words)
    number = jnp.arange(count)[:, None] * longest + position
    owner = jnp.broadcast_to(slot[:, None], place.shape)
    return Tiles(
        words=jnp.full(tiles * words, count * longest)
        .at[place]
        .set(number, mode="drop")
        .reshape(tiles, words),
        owners=jnp.full(tiles * words, slots).at[place].set(owner, mode="drop").reshape(tiles, words),
        captions=jnp.full((tiles, slots), count).at[tile, slot].set(jnp.arange(count)),
        tile=tile,
        slot=slot,
    )


def _places(lengths: jax.Array, words: int, slots: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(tile, first word in it, slot) of each caption, int32 [C] each: the next tile begins where one is full."""

    def place(carry: tuple, length: jax.Array) -> tuple[tuple, tuple]:
        tile, start, slot = carry
        full = (start + length > words) | (slot == slots)
        tile, start, slot = tile + full, jnp.where(full, 0, start), jnp.where(full, 0, slot)
        return (tile, start + length, slot + 1), (tile, start, slot)

    zero = jnp.zeros((), lengths.dtype)
    # Unrolled: on an accelerator each turn of the loop would be launched by itself.
    return jax.lax.scan(place, (zero, zero, zero), lengths, unroll=16)[1]


def take(rows: jax.Array, numbers: jax.Array) -> jax.Array:
    """Rows by number, zeros for empty places."""
    return functools.partial(jnp.take, axis=0, mode="fill", fill_value=0)(rows, numbers)
