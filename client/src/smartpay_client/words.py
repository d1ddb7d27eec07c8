"""Closed lists of words that may grow: an old client must understand a newer edge."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Self


class Word(StrEnum):
    """One word of a list of the contract, without the list's prefix.

    A word this release does not know is kept as it is; it equals its text like every other.
    """

    _prefix: ClassVar[str]

    def __init_subclass__(cls, *, prefix: str, **rest: Any) -> None:  # noqa: ANN401 - Python's own
        """Names the prefix that the wire puts before each word."""
        super().__init_subclass__(**rest)
        cls._prefix = prefix

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        word = value.removeprefix(cls._prefix)
        if word in cls.__members__:
            return cls[word]
        unknown = str.__new__(cls, word)
        unknown._name_ = unknown._value_ = word
        return unknown

    @property
    def wire(self) -> str:
        """The word as the wire spells it."""
        return self._prefix + self.value
