"""Reads a safetensors file: eight bytes of length, a JSON header, then plain numbers.

The format is https://huggingface.co/docs/safetensors; it holds nothing that could run.
"""

from __future__ import annotations

import json
from math import prod

import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES_MAX = 100_000
_FLOAT_BYTES = 4


def tensors(data: bytes) -> dict[str, NDArray[np.float32]]:
    """All tensors by name.

    Raises:
        ValueError: the file is not whole, or holds other numbers than float32.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > _HEADER_BYTES_MAX or 8 + length > len(data):
        raise ValueError("the header does not fit the file")
    header = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    found: dict[str, NDArray[np.float32]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        shape = [int(side) for side in entry["shape"]]
        if entry["dtype"] != "F32" or min(shape, default=0) < 0:
            raise ValueError(f"{name} is not float32")
        if not 0 <= first <= last <= len(body) or last - first != prod(shape) * _FLOAT_BYTES:
            raise ValueError(f"{name} does not lie within the file")
        numbers = np.frombuffer(body[first:last], "<f4").reshape(shape)
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} holds what is no number")
        found[name] = numbers.astype(np.float32)
    return found
