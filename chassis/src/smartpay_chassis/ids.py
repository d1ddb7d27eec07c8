"""Ids: a prefix, the merchant's cell, and 24 lower-case Crockford characters (120 bits)."""

from __future__ import annotations

import hashlib
import re
import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
GRAMMAR = re.compile(r"[a-z]{3}_[a-z][0-9][0-9a-hjkmnp-tv-z]{24}")
_BODY_LENGTH = 24
_BITS = _BODY_LENGTH * 5


def _encode(number: int) -> str:
    return "".join(ALPHABET[number >> shift & 31] for shift in range(_BITS - 5, -5, -5))


def derive(prefix: str, cell: str, *parts: str) -> str:
    """Makes the id that the same parts always lead to, so that racing duplicates share it.

    SHA-256 over the parts, each with its length before it, cut to 120 bits.
    """
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    number = int.from_bytes(digest.digest()[: _BITS // 8], "big")
    return f"{prefix}_{cell}{_encode(number)}"


def new(prefix: str, cell: str) -> str:
    """Makes an id that nobody can guess."""
    return f"{prefix}_{cell}{_encode(secrets.randbits(_BITS))}"


def is_id(text: str) -> bool:
    """Tells whether the whole text is an id of ours."""
    return GRAMMAR.fullmatch(text) is not None


def cell_of(identifier: str) -> str:
    """Reads the home cell out of an id; raises ValueError when it is none."""
    if not is_id(identifier):
        raise ValueError("not an id of the form prefix, cell, 24 characters")
    return identifier[4:6]
