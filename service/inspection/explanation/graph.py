"""The graph of a bundle with further outputs, which explain its anomaly map.

The file of the bundle has one graph with one copy of the weights. The outputs are added in memory when they are needed,
and the graph that decides about images stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from service.bundle.arrays import Float32Map, UInt8Image
from service.bundle.manifest import BankTensors, Explanation
from service.errors import PlumblineError
from service.inspection.runtime.session import GraphSession, SessionOptions

_log = logging.getLogger(__name__)
# The nodes between the sum of the sources and the map: smoothing and a change of shape. A graph in which everything
# follows this sum would take a multiple of its time to explain.
MAX_TAIL_NODES = 64
_MAP = "anomaly_map"


@dataclass(frozen=True)
class BankCells:
    """What a memory bank found for each of its cells.

    Attributes:
        nearest: int64 [rows, columns], index of the nearest prototype.
        distances: float32 [rows, columns], distance to it.
    """

    nearest: npt.NDArray[np.int64]
    distances: Float32Map


@dataclass(frozen=True)
class ExplainedMap:
    """The anomaly map of one input of the graph, and what it consists of.

    Attributes:
        anomaly_map: float32 [h, w], times the score gain.
        contributions: float32 [sources, h, w], what each source adds to the map, in the order of the manifest.
        banks: The memory banks by name.
    """

    anomaly_map: Float32Map
    contributions: Float32Map
    banks: Mapping[str, BankCells]


class ExplainedGraph:
    """A session for the graph of a bundle with further outputs. Not thread-safe.

    Args:
        model: The serialised graph of the bundle.
        explanation: The tensors that explain its map.
        options: How to run it.

    Raises:
        ValueError: The graph cannot be explained. The text completes a sentence.
        ProviderUnavailable: See `GraphSession`.
    """

    def __init__(self, model: bytes, explanation: Explanation, options: SessionOptions) -> None:
        self._explanation = explanation
        extended, self._contributions = add_outputs(model, explanation)
        with _runtime_errors():
            self._session = GraphSession(extended, options)

    def run(self, image: UInt8Image) -> ExplainedMap:
        """Explain one input of the graph.

        Args:
            image: uint8 [H, W, 3], RGB, of the graph's input size.

        Raises:
            ValueError: A tensor has another shape than the manifest states.
        """
        with _runtime_errors():
            values = self._session.run_named(image[None])
        gain = np.float32(1) if "score_gain" not in values else values["score_gain"][0]
        anomaly_map = values[_MAP][0]
        contributions = [values[name] for name in self._contributions]
        if any(one.size != anomaly_map.size for one in contributions):
            raise ValueError("a source has another shape than the map.")
        return ExplainedMap(
            anomaly_map * gain,
            np.stack([one.reshape(anomaly_map.shape) for one in contributions]) * gain,
            {bank.name: _cells(bank, values) for bank in self._explanation.banks},
        )

    def close(self) -> None:
        """Free the memory of the session."""
        self._session.close()


@contextmanager
def _runtime_errors() -> Iterator[None]:
    """Report what ONNX Runtime raises in the block as a property of the graph."""
    try:
        yield
    except (PlumblineError, MemoryError):
        raise
    except Exception as error:  # the classes of ONNX Runtime's exceptions have no common base
        _log.warning("The graph that explains a map cannot be run.", exc_info=error)
        raise ValueError("ONNX Runtime cannot run it with the outputs that explain the map.") from error


def add_outputs(model: bytes, explanation: Explanation) -> tuple[bytes, list[str]]:
    """Add outputs to a graph: the contribution of each source to the map, and the nearest prototype of each cell.

    What follows the sum of the sources is linear. It is applied to each source by itself, which gives its share of the
    map.

    Args:
        model: The serialised graph.
        explanation: The tensors that explain its map.

    Returns:
        The serialised graph, and the names of the outputs with the contributions, in the order of the sources.

    Raises:
        ValueError: The graph cannot be explained. The text completes a sentence.
    """
    graph = onnx.load_model_from_string(model)
    tail = _tail(graph.graph, explanation.total)
    outputs: list[tuple[str, int]] = []
    contributions = []
    for number, source in enumerate(explanation.sources):
        renamed = {explanation.total: source.tensor}
        for node in tail:
            graph.graph.node.append(_copy(node, renamed, f"_of_source_{number}"))
        contributions.append(renamed[_MAP])
        outputs.append((renamed[_MAP], TensorProto.FLOAT))
    for bank in explanation.banks:
        operator = "ArgMax" if bank.nearest == "highest" else "ArgMin"
        name = _nearest(bank)
        graph.graph.node.append(helper.make_node(operator, [bank.candidates], [name], axis=-1, keepdims=0))
        outputs += [(name, TensorProto.INT64), (bank.distances, TensorProto.FLOAT)]
    known = {output.name for output in graph.graph.output}
    for name, element in dict(outputs).items():
        if name not in known:
            graph.graph.output.append(helper.make_tensor_value_info(name, element, None))
    return graph.SerializeToString(), contributions


def _tail(graph: onnx.GraphProto, total: str) -> list[onnx.NodeProto]:
    """Return the nodes between the sum of the sources and the map, in the order of their execution."""
    reached = {total}
    after = []
    for node in graph.node:
        if not reached.isdisjoint(node.input):
            reached.update(node.output)
            after.append(node)
    needed = {_MAP}
    tail = []
    for node in reversed(after):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            tail.append(node)
    if total not in needed:
        raise ValueError(f"the map does not depend on {total!r}.")
    if len(tail) > MAX_TAIL_NODES:
        raise ValueError(f"more than {MAX_TAIL_NODES} nodes follow {total!r}.")
    return tail[::-1]


def _copy(node: onnx.NodeProto, renamed: dict[str, str], suffix: str) -> onnx.NodeProto:
    """Return a copy of a node with other inputs, and add its outputs to `renamed`."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("name")  # names of nodes are optional and have to be unique
    copy.input[:] = [renamed.get(name, name) for name in node.input]
    renamed.update({name: name + suffix for name in node.output if name})
    copy.output[:] = [renamed.get(name, name) for name in node.output]
    return copy


def _nearest(bank: BankTensors) -> str:
    return f"explain_nearest_of_{bank.name}"


def _cells(bank: BankTensors, values: Mapping[str, npt.NDArray[Any]]) -> BankCells:
    nearest, distances = values[_nearest(bank)], values[bank.distances]
    shape = bank.rows, bank.columns
    if nearest.size != bank.rows * bank.columns or distances.size != nearest.size:
        raise ValueError(f"the memory bank {bank.name!r} has another number of cells than the manifest states.")
    if nearest.max(initial=0) >= bank.prototypes:
        raise ValueError(f"the memory bank {bank.name!r} has more prototypes than the manifest states.")
    return BankCells(nearest.reshape(shape), distances.reshape(shape))
