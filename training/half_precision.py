"""Conversion of an exported graph to 16-bit floats, for GPUs: the networks in float16, the distances in float32.

The same operators are converted as for int8 (`training.quantisation`). A distance is a small difference of large
numbers, of which float16 keeps three digits at most, and sums of squares over many channels exceed its largest number.
Processors without float16 arithmetic run such a graph in float32 with conversions, which is slower than an fp32 graph.

The conversion is our own: ONNX Runtime's (`onnxruntime.transformers.float16`) rounds the results of operators that stay
in float32 to float16 as well.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.errors import NotConvertible
from training.graph_file import number_nodes, serialised
from training.quantisation import quantised_nodes


def halve(model: bytes, *, version: str) -> bytes:
    """Return the graph with its networks in float16.

    Args:
        model: The serialised fp32 graph.
        version: Version of the bundle, for messages.

    Raises:
        NotConvertible: The graph has no convolution to convert.
    """
    graph = onnx.load_model_from_string(model)
    number_nodes(graph)
    chosen = set(quantised_nodes(graph))
    if not chosen:
        raise NotConvertible(version, "its graph has no convolution with constant weights before the distances")
    _convert(graph.graph, chosen)
    return serialised(graph)


def _convert(graph: onnx.GraphProto, chosen: set[str]) -> None:
    """Convert the chosen nodes, with casts where their values come from others or go to others."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    half = {name for node in graph.node if node.name in chosen for name in node.output}
    nodes: list[onnx.NodeProto] = []
    converted: dict[str, str] = {}

    def to_half(name: str) -> str:
        if name in half or not name:
            return name
        if name not in converted:
            converted[name] = f"{name}_half"
            if name in weights:
                values = numpy_helper.to_array(weights[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(values, converted[name]))
            else:
                nodes.append(helper.make_node("Cast", [name], [converted[name]], to=TensorProto.FLOAT16))
        return converted[name]

    def to_single(name: str) -> str:
        if name not in half:
            return name
        if name not in converted:
            converted[name] = f"{name}_single"
            nodes.append(helper.make_node("Cast", [name], [converted[name]], to=TensorProto.FLOAT))
        return converted[name]

    for node in graph.node:
        inputs = [to_half(name) if node.name in chosen else to_single(name) for name in node.input]
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = inputs
        nodes.append(copied)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
