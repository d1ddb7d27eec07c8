"""Runs the graph's head and the trees on onnxruntime, in one session and on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The package names these without saying that it hands them on.
from onnxruntime import (  # type: ignore[attr-defined]
    InferenceSession,
    OrtValue,
    SessionOptions,
)

ROWS, GRAPH = "rows", "graph"
MARGINS, GRAPH_COLUMNS = "margins", "graph_columns"


class OnnxModel:
    """One loaded file; it may be called from any one thread at a time.

    Inputs are `rows` float32 [n, features] and, when a graph model is inside, `graph` float32
    [n, GRAPH_WIDTH]; outputs are `margins` [n, 1] and then also `graph_columns` [n, columns].
    Every other file is refused with ValueError.
    """

    def __init__(self, file: bytes) -> None:
        options = SessionOptions()
        # One thread: a lone row gains nothing from more, and on shared cores loses everything.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
        inputs = {each.name: each for each in self._session.get_inputs()}
        outputs = {each.name for each in self._session.get_outputs()}
        self.graph = GRAPH in inputs
        self._outputs = (MARGINS, GRAPH_COLUMNS) if self.graph else (MARGINS,)
        if set(inputs) != ({ROWS, GRAPH} if self.graph else {ROWS}) or outputs != set(
            self._outputs
        ):
            raise ValueError("the model's inputs and outputs are not rows, graph and margins")
        if any(each.type != "tensor(float)" for each in inputs.values()):
            raise ValueError("the model takes other numbers than float32")
        self._lone_row = _LoneRow(self._session, tuple(inputs), self._outputs)

    def infer(
        self, rows: NDArray[np.float32], graph: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Log-odds of fraud, float64 [n], and the graph's columns, float32 [n, columns or 0]."""
        given = (rows, graph) if self.graph else (rows,)
        told: Any
        if self._lone_row.fits(given):
            told = self._lone_row.run(given)
        else:
            told = self._session.run(self._outputs, dict(zip((ROWS, GRAPH), given, strict=False)))
        # Copies: a lone row's places are written again by the next.
        columns = told[1].copy() if self.graph else rows[:, :0]
        return told[0][:, 0].astype(np.float64), columns


class _LoneRow:
    """Places for the numbers of one row, bound to the engine once.

    Handing arrays over anew with each run costs as much again as a lone row's trees.
    """

    def __init__(
        self, session: InferenceSession, inputs: tuple[str, ...], outputs: tuple[str, ...]
    ) -> None:
        binding: Any = session.io_binding()  # without types in the engine's own source
        self._run: Any = session.run_with_iobinding
        self._binding = binding
        self._inputs: list[NDArray[np.float32]] = []
        self._outputs: list[NDArray[np.float32]] = []
        told = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
        # A file that does not tell its widths is run the other way.
        if not all(len(shape) == 2 and isinstance(shape[1], int) for shape in told.values()):
            self._shapes: tuple[tuple[int, int], ...] = ()
            return
        self._shapes = tuple((1, told[name][1]) for name in inputs)
        for name in inputs:
            place = OrtValue.ortvalue_from_numpy(np.zeros((1, told[name][1]), np.float32))
            binding.bind_ortvalue_input(name, place)
            self._inputs.append(place.numpy())  # the place itself, not a copy of it
        for name in outputs:
            place = OrtValue.ortvalue_from_numpy(np.zeros((1, told[name][1]), np.float32))
            binding.bind_ortvalue_output(name, place)
            self._outputs.append(place.numpy())

    def fits(self, given: tuple[NDArray[np.float32], ...]) -> bool:
        """Whether this is one row, as wide as the model wants it."""
        return tuple([each.shape for each in given]) == self._shapes

    def run(self, given: tuple[NDArray[np.float32], ...]) -> list[NDArray[np.float32]]:
        """Runs the model; its answers stand until it is run again."""
        for place, each in zip(self._inputs, given, strict=True):
            place[...] = each
        self._run(self._binding)
        return self._outputs
