"""Times of search by the number of photos: random embeddings, scored as the page scores them."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from cusa_jax.benchmark import measure
from cusa_jax.benchmark.measure import Row
from cusa_jax.search.finder import Hit, best

LIMIT = 1000  # hits of one answer of the page


def row(photos: int, width: int, repeats: int) -> Row:
    """ms of the first query and of later ones, for `photos` embeddings float32 of `width`.

    Each variant's figure is the median of `repeats` rounds (at least 1); the text's own encoding is not in it.
    """
    rng = np.random.default_rng(0)
    items = rng.standard_normal((photos, width), np.float32)
    items = jnp.asarray(items / np.linalg.norm(items, axis=1, keepdims=True))
    start = time.perf_counter()
    best(items, items[0], LIMIT)
    first = time.perf_counter() - start
    rounds = measure.time_rounds({"query": functools.partial(_query, items)}, repeats)
    return {
        "photos": photos,
        "width": width,
        "first_ms": round(1e3 * first, 2),
        "query_ms": round(1e3 * rounds["query"].seconds, 2),
        "spread_ms": round(1e3 * rounds["query"].spread, 2),
    }


def _query(items: jax.Array) -> list[Hit]:
    return best(items, items[-1], LIMIT)
