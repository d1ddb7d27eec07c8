"""Runs the graph's head and the trees on onnxruntime, in one session and on one thread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The package names these without saying that it hands them on.
from onnxruntime import InferenceSession, SessionOptions  # type: ignore[attr-defined]

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

    def infer(
        self, rows: NDArray[np.float32], graph: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Log-odds of fraud, float64 [n], and the graph's columns, float32 [n, columns or 0]."""
        if self.graph:
            margins, columns = self._session.run(self._outputs, {ROWS: rows, GRAPH: graph})
        else:
            (margins,) = self._session.run(self._outputs, {ROWS: rows})
            columns = np.zeros((len(rows), 0), np.float32)
        return np.asarray(margins, np.float64)[:, 0], np.asarray(columns, np.float32)
