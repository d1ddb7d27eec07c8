"""The garbage collector leaves what is remembered alone, and still finds what is garbage."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from smartpay_fraud.heap import COLLECT_EVERY, spare_the_memory


class Knot:
    """Holds itself, so that only a collection can free it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_what_lives_is_set_aside_and_looked_for_seldom() -> None:
    remembered = [Knot()]

    spare_the_memory()

    assert gc.get_threshold() == COLLECT_EVERY
    assert not any(each is remembered for each in gc.get_objects())


def test_garbage_is_freed_before_the_rest_is_set_aside() -> None:
    knot = Knot()
    gone = weakref.ref(knot)
    del knot

    spare_the_memory()

    assert gone() is None


def test_what_was_set_aside_is_freed_once_it_is_forgotten() -> None:
    class Remembered:
        pass

    held = [Remembered()]
    gone = weakref.ref(held[0])
    spare_the_memory()

    held.clear()

    assert gone() is None
