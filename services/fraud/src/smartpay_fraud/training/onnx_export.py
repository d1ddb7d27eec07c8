"""Writes trees as an ONNX graph, so that serving needs neither XGBoost nor SciPy."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from smartpay_fraud.domain.attribution import LEAF, Ensemble

_ML_OPSET = 3  # the version of ai.onnx.ml that has the operator used here, and float thresholds
_IR_VERSION = 8  # read by every onnxruntime since 2022


def to_onnx(ensemble: Ensemble, feature_count: int) -> bytes:
    """Makes a graph from float32 rows [n, features] to margins [n, 1] in log-odds.

    Uses ai.onnx.ml TreeEnsembleRegressor: https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html
    """
    sizes = np.diff(np.append(ensemble.roots, len(ensemble.left)))
    tree = np.repeat(np.arange(len(sizes)), sizes)
    node = np.arange(len(tree)) - ensemble.roots[tree]
    inner = ensemble.left != LEAF
    leaf = ~inner
    ensemble_node = helper.make_node(
        "TreeEnsembleRegressor",
        ["rows"],
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
    graph = helper.make_graph(
        [ensemble_node],
        "fraud",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, feature_count])],
        [helper.make_tensor_value_info("margins", TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(
        graph,
        producer_name="smartpay_fraud",
        opset_imports=[
            helper.make_opsetid("", 17),
            helper.make_opsetid("ai.onnx.ml", _ML_OPSET),
        ],
    )
    model.ir_version = _IR_VERSION
    return bytes(model.SerializeToString(deterministic=True))
