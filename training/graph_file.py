"""Graphs as the exporter writes them: without notes, checked, with raw data."""

from __future__ import annotations

import onnx
from onnx import numpy_helper


def strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes, which hold source paths of the training machine and enlarge the file."""
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        graph.doc_string = ""
        for item in (*graph.node, *graph.value_info):
            del item.metadata_props[:]
            item.doc_string = ""
    # Initializers, inputs and outputs have notes as well.
    for item in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""


def number_nodes(model: onnx.ModelProto) -> None:
    """Give all nodes of a graph unique names, by which converters select them."""
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"


def serialised(model: onnx.ModelProto) -> bytes:
    """Check a converted graph and return it without notes, with all weights as raw data, as the exporter writes them.

    Args:
        model: The graph. It is changed.
    """
    del model.metadata_props[:]
    model.producer_name = model.producer_version = ""
    strip(model)
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    for entry in [entry for entry in model.opset_import if entry.domain not in {"", "ai.onnx"}]:
        model.opset_import.remove(entry)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
