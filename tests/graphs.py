"""Graphs for tests of inference."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def convolutions(seed: int = 0, side: int = 96) -> bytes:
    """Return a graph of convolutions and a product of matrices, whose sums depend on the order of their terms."""
    rng = np.random.default_rng(seed)
    weights = {
        "first": rng.normal(0, 0.2, (24, 3, 3, 3)),
        "second": rng.normal(0, 0.1, (48, 24, 3, 3)),
        "bank": rng.normal(0, 1, (48, 300)),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "first"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["c"], ["cells"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["cells", "bank"], ["products"]),
        helper.make_node("ReduceMax", ["products"], ["anomaly_map"], axes=[3], keepdims=0),
    ]
    cells = side // 4
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", side, side, 3])],
        [helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", cells, cells])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
