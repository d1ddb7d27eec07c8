"""The body of a remote scoring call and of its answer: one float matrix in NumPy's own format.

Content type application/x-npy (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
A request is float32 [n, features + graph width]; an answer float64 [n, 1 + graph columns], the
margin first. Neither can hold anything but numbers: pickles are refused.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

CONTENT_TYPE = "application/x-npy"
VERSION_PREFIX = "model_version="
"""Begins the custom attributes of both directions: the models of both ends must be the same."""


def packed(matrix: NDArray[np.float32] | NDArray[np.float64]) -> bytes:
    """Spells a matrix."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(matrix), allow_pickle=False)
    return buffer.getvalue()


def matrix(body: bytes, dtype: type[np.float32] | type[np.float64]) -> NDArray[np.float64]:
    """Reads a matrix; raises ValueError for anything else, shorter bodies included."""
    buffer = io.BytesIO(body)
    read = np.load(buffer, allow_pickle=False)
    if not isinstance(read, np.ndarray) or read.ndim != 2 or read.dtype != dtype:
        raise ValueError(f"the body is no matrix of {dtype.__name__}")
    return np.asarray(read)
