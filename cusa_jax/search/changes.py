"""What became of the photos of an index: which are gone, and which only cannot be seen just now."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Mapping

from cusa_jax.search.photos import State


def gone_and_kept(known: Iterable[bytes], found: Mapping[bytes, State]) -> tuple[list[bytes], list[bytes]]:
    """Of the indexed photos that were not found: (those that are gone, those that are kept).

    A photo is gone where others of its folder were found. A folder of which none was found may be a drive that is not
    mounted: it is kept.
    """
    known = list(known)
    seen = {os.path.dirname(name) for name in known if name in found}
    missing: dict[bool, list[bytes]] = collections.defaultdict(list)
    for name in known:
        if name not in found:
            missing[os.path.dirname(name) in seen].append(name)
    return missing[True], missing[False]


def is_moved(known: Mapping[bytes, State | None], found: Mapping[bytes, State]) -> bool:
    """Whether most photos of an index are in another folder, under the same names and of the same size.

    The time of the last change does not count: copies have another.
    """
    same = sum(bool(state and name in found and found[name][0] == state[0]) for name, state in known.items())
    return 2 * same > len(known)
