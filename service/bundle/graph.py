"""Checks of a bundle's graph: self-contained, bounded, of the stated shapes, and consistent with the manifest."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import chain
from pathlib import Path

import onnx

from service.bundle.errors import BundleSchema, ExternalData
from service.bundle.operators import operator_problems
from service.bundle.wire import StructureTooLarge, check_structure

_log = logging.getLogger(__name__)
# Everything in a graph except its weights. Exported graphs have some hundred kilobytes.
MAX_STRUCTURE_BYTES = 2 * 2**20


def check_graph(
    path: Path,
    model: bytes,
    *,
    image_shape: tuple[int, ...],
    map_shape: tuple[int, ...],
    metadata: Mapping[str, str],
    tensors: Set[str] = frozenset(),
) -> None:
    """Check everything about a bundle's graph that can be checked without running it.

    Args:
        path: The bundle's folder, for messages.
        model: The serialised graph.
        image_shape: Shape of one input, without the batch axis.
        map_shape: Shape of one output map, without the batch axis.
        metadata: Expected `metadata_props`.
        tensors: Names of tensors that the graph must compute.

    Raises:
        BundleSchema: The data is not an ONNX graph, does not match the manifest, or contains an operator that is not
            allowed; see `service.bundle.operators`.
        ExternalData: The graph refers to external data, also in nested graphs and functions.
    """
    try:
        check_structure(model, MAX_STRUCTURE_BYTES)
        graph = onnx.load_model_from_string(model)
    except StructureTooLarge as error:
        raise BundleSchema(
            path,
            f"model.onnx has more than {MAX_STRUCTURE_BYTES} bytes beside the raw data of its initialisers.",
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # protobuf moves its DecodeError between releases
        _log.debug("The graph of %s cannot be parsed.", path, exc_info=error)
        raise BundleSchema(path, "model.onnx is not an ONNX graph, or it is truncated.") from error
    functions = [_tensors_of_nodes(function.node) for function in graph.functions]
    for tensor in [*_tensors(graph.graph), *chain.from_iterable(functions)]:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ExternalData(path, tensor.name)
    if problem := next(operator_problems(graph), None):
        raise BundleSchema(path, f"model.onnx: {problem}")
    if len(graph.graph.input) != 1:
        raise BundleSchema(path, f"model.onnx has {len(graph.graph.input)} inputs, expected one.")
    _check_tensor(path, graph.graph.input, "image", onnx.TensorProto.UINT8, image_shape)
    _check_tensor(path, graph.graph.output, "anomaly_map", onnx.TensorProto.FLOAT, map_shape)
    if unknown := {output.name for output in graph.graph.output} - {"anomaly_map", "score_gain"}:
        raise BundleSchema(path, f"model.onnx has an unknown output {sorted(unknown)[0]!r}.")
    if missing := tensors - {name for node in graph.graph.node for name in node.output}:
        raise BundleSchema(path, f"model.onnx computes no tensor {sorted(missing)[0]!r}, which the manifest names.")
    stored = {prop.key: prop.value for prop in graph.metadata_props}
    for key, value in metadata.items():
        if stored.get(key) != value:
            raise BundleSchema(path, f"model.onnx has {key} = {stored.get(key)}, the manifest has {value}.")


def _check_tensor(
    path: Path, values: Sequence[onnx.ValueInfoProto], name: str, element: int, shape: tuple[int, ...]
) -> None:
    for value in values:
        if value.name == name:
            tensor = value.type.tensor_type
            dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
            if tensor.elem_type == element and dims == [None, *shape]:
                return
            raise BundleSchema(
                path, f"model.onnx: {name!r} has shape {dims}, expected [N, {', '.join(map(str, shape))}]."
            )
    raise BundleSchema(path, f"model.onnx has no tensor {name!r}.")


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Return every tensor of a graph: initialisers, constants, and those of nested graphs."""
    sparse = chain.from_iterable((tensor.values, tensor.indices) for tensor in graph.sparse_initializer)
    return [*graph.initializer, *sparse, *_tensors_of_nodes(graph.node)]


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> list[onnx.TensorProto]:
    tensors: list[onnx.TensorProto] = []
    for attribute in chain.from_iterable(node.attribute for node in nodes):
        tensors += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
        for nested in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            tensors += _tensors(nested)
    return tensors
