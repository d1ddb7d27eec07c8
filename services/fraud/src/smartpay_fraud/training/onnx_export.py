"""Writes trees, and the graph network's head before them, as one ONNX graph.

So serving needs neither XGBoost nor torch. The operators: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from smartpay_fraud.domain.attribution import LEAF, Ensemble
from smartpay_fraud.domain.graph import GRAPH_COLUMNS, GRAPH_WIDTH

if TYPE_CHECKING:
    from smartpay_fraud.training.sage import Sage

_OPSET = 17
_ML_OPSET = 3  # the version of ai.onnx.ml that has the operator used here, and float thresholds
_IR_VERSION = 8  # read by every onnxruntime since 2022

OWN_MAX = 5.0
"""Own features are cut at five standard deviations: one outlier must not drown the rest."""

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """The graph network's second hop and what follows, as float32 matrices.

    Attributes:
        center, scale: [features], own = clip((row - center) * scale), 0 where NaN.
        own, parts, bias: [features, width], [GRAPH_WIDTH, width], [width]; then relu.
        embedding, embedding_bias: [width, EMBEDDING], [EMBEDDING]; then relu.
        logit, logit_bias: [EMBEDDING, 1], [1].
    """

    center: Matrix
    scale: Matrix
    own: Matrix
    parts: Matrix
    bias: Matrix
    embedding: Matrix
    embedding_bias: Matrix
    logit: Matrix
    logit_bias: Matrix


def to_onnx(ensemble: Ensemble, feature_count: int, sage: Sage | None = None) -> bytes:
    """Makes the graph that serving runs.

    Inputs: `rows` float32 [n, features] and, with a network, `graph` float32 [n, GRAPH_WIDTH].
    Outputs: `margins` float32 [n, 1] in log-odds and, with a network, `graph_columns` float32
    [n, GRAPH_COLUMNS], which stand after the base columns in the row that the trees see.
    """
    inputs = [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, feature_count])]
    outputs = [helper.make_tensor_value_info("margins", TensorProto.FLOAT, [None, 1])]
    initializers: list[TensorProto] = []
    if sage is None:
        nodes = [_trees(ensemble, "rows")]
    else:
        head = sage.head
        nodes, initializers = _network(head)
        nodes.append(helper.make_node("Concat", ["rows", "graph_columns"], ["stack"], axis=1))
        nodes.append(_trees(ensemble, "stack"))
        width, columns = [None, GRAPH_WIDTH], [None, len(GRAPH_COLUMNS)]
        inputs.append(helper.make_tensor_value_info("graph", TensorProto.FLOAT, width))
        outputs.append(helper.make_tensor_value_info("graph_columns", TensorProto.FLOAT, columns))
    model = helper.make_model(
        helper.make_graph(nodes, "fraud", inputs, outputs, initializers),
        producer_name="smartpay_fraud",
        opset_imports=[
            helper.make_opsetid("", _OPSET),
            helper.make_opsetid("ai.onnx.ml", _ML_OPSET),
        ],
    )
    model.ir_version = _IR_VERSION
    return bytes(model.SerializeToString(deterministic=True))


def _network(head: Head) -> tuple[list[NodeProto], list[TensorProto]]:
    constants = {
        "center": head.center,
        "scale": head.scale,
        "low": np.float32(-OWN_MAX),
        "high": np.float32(OWN_MAX),
        "first": np.concatenate([head.own, head.parts]),
        "first_bias": head.bias,
        "second": head.embedding,
        "second_bias": head.embedding_bias,
        "third": head.logit,
        "third_bias": head.logit_bias,
    }
    node = helper.make_node
    nodes = [
        node("IsNaN", ["rows"], ["missing"]),
        node("Where", ["missing", "center", "rows"], ["filled"]),
        node("Sub", ["filled", "center"], ["centered"]),
        node("Mul", ["centered", "scale"], ["scaled"]),
        node("Clip", ["scaled", "low", "high"], ["own"]),
        node("Concat", ["own", "graph"], ["seen"], axis=1),
        node("Gemm", ["seen", "first", "first_bias"], ["first_sum"]),
        node("Relu", ["first_sum"], ["hidden"]),
        node("Gemm", ["hidden", "second", "second_bias"], ["second_sum"]),
        node("Relu", ["second_sum"], ["embedding"]),
        node("Gemm", ["embedding", "third", "third_bias"], ["logit"]),
        node("Concat", ["embedding", "logit"], ["graph_columns"], axis=1),
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    return nodes, tensors


def _trees(ensemble: Ensemble, rows: str) -> NodeProto:
    # ai.onnx.ml TreeEnsembleRegressor.
    sizes = np.diff(np.append(ensemble.roots, len(ensemble.left)))
    tree = np.repeat(np.arange(len(sizes)), sizes)
    node = np.arange(len(tree)) - ensemble.roots[tree]
    inner = ensemble.left != LEAF
    leaf = ~inner
    return helper.make_node(
        "TreeEnsembleRegressor",
        [rows],
        ["margins"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=[ensemble.base_margin],
        nodes_treeids=tree.tolist(),
        nodes_nodeids=node.tolist(),
        nodes_featureids=np.where(inner, ensemble.feature, 0).tolist(),
        nodes_values=ensemble.threshold.tolist(),
        nodes_modes=np.where(inner, "BRANCH_LT", "LEAF").tolist(),
        nodes_truenodeids=np.where(inner, ensemble.left - ensemble.roots[tree], 0).tolist(),
        nodes_falsenodeids=np.where(inner, ensemble.right - ensemble.roots[tree], 0).tolist(),
        nodes_missing_value_tracks_true=(inner & ensemble.missing_left).astype(int).tolist(),
        target_treeids=tree[leaf].tolist(),
        target_nodeids=node[leaf].tolist(),
        target_ids=[0] * int(leaf.sum()),
        target_weights=ensemble.value[leaf].tolist(),
    )
