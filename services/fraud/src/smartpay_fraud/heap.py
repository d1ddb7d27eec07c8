"""Keeps Python's garbage collector off the memory: millions of objects that never become garbage.

Without it a full collection walks all that is remembered, and whatever request is under way waits.
"""

from __future__ import annotations

import gc

COLLECT_EVERY = (50_000, 20, 100)
"""New objects per young collection, and young ones per older ones. A request leaves some hundred
objects in memory and no cycles, so Python's own 700 would search in vain several times a second."""


def spare_the_memory() -> None:
    """Sets aside what lives now, and looks at the rest seldom; what is forgotten is freed anyway.

    Call it once memory is rebuilt, and now and then while it grows.
    """
    gc.set_threshold(*COLLECT_EVERY)
    gc.collect()
    gc.freeze()
