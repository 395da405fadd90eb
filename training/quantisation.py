"""Static 8-bit quantisation of an exported graph: which operators compute in int8, and the ranges of their inputs.

The weights are int8 with one scale per output channel, the activations uint8 with one scale per tensor ("u8s8"),
written as pairs of QuantizeLinear and DequantizeLinear (QDQ) by ONNX Runtime's quantiser. Jacob et al., CVPR 2018,
describe the arithmetic. The ranges are the smallest and largest values on training images, measured once: with ranges
that follow each batch (dynamic quantisation), the score of an image would depend on the other images of its batch.

Only the networks are quantised. The distances between features, the search in the memory banks, the fusion and the
smoothing stay float32: a distance is a small difference of large numbers, of which 8 bits would leave nothing. Our own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import MinMaxCalibrater, QDQQuantizer, QuantType

from service.inspection.runtime.session import SessionOptions, session_options
from training.errors import NotConvertible
from training.graph_file import number_nodes, serialised
from training.synthetic_anomalies import synthetic_anomaly

CALIBRATION_IMAGES = 64  # good images; a copy of each with a synthetic anomaly is added
_NETWORK_OPERATORS = """
    Add AveragePool BatchNormalization Cast Clip Concat Conv ConvTranspose Div Dropout Flatten HardSigmoid HardSwish
    Identity LeakyRelu MaxPool Mul Pad PRelu Relu Reshape Resize Sigmoid Slice Squeeze Sub Transpose Unsqueeze
"""
# What networks consist of, and what prepares their input. Any other operator begins the computation of distances.
_NETWORK = frozenset(_NETWORK_OPERATORS.split())
# These compute in int8 if all their inputs come from quantised operators. Add and Concat join branches of a network.
_FOLLOWING = frozenset({"Add", "Clip", "Concat", "MaxPool", "Relu"})
_SHAPE_OF = frozenset({"Shape", "Size"})
_KERNEL_SUM_TOLERANCE = 1e-3


def quantise(
    model: bytes,
    good: NDArray[np.uint8],
    *,
    version: str,
    seed: int,
    threads: int | None = None,
    on_measured: Callable[[int], None] = lambda _: None,
) -> bytes:
    """Return the graph with its networks in int8.

    The same graph, images and seed give the same result on the same machine.

    Args:
        model: The serialised fp32 graph.
        good: uint8 `[K, H, W, 3]`, RGB, training images of the graph's input size, at least one.
        version: Version of the bundle, for messages.
        seed: Seed of the synthetic anomalies.
        threads: CPU threads; None uses the CPU quota.
        on_measured: Called with the number of images whose activations are measured so far, 1..2 K.

    Raises:
        NotConvertible: The graph has no convolution to quantise, or is quantised already.
    """
    graph = onnx.load_model_from_string(model)
    if any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in graph.graph.node):
        raise NotConvertible(version, "its graph is quantised already")
    number_nodes(graph)
    chosen = quantised_nodes(graph)
    if not chosen:
        raise NotConvertible(version, "its graph has no convolution with constant weights before the distances")
    types = sorted({node.op_type for node in graph.graph.node if node.name in chosen})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(graph.SerializeToString())
        calibrator = _Calibrator(path, types, str(Path(folder) / "augmented.onnx"), threads)
        calibrator.augment_graph()
        calibrator.create_inference_session()
        calibrator.collect_data(_Reader(with_anomalies(good, seed), on_measured))
        ranges = calibrator.compute_data()
    quantiser = QDQQuantizer(
        graph,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=chosen,
        nodes_to_exclude=[],
        op_types_to_quantize=types,
        extra_options={},
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    return serialised(quantiser.model.model)


def quantised_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that compute in int8, in the order of the graph.

    These are the convolutions of the networks, and the activations, sums and concatenations that follow them. Not
    chosen is whatever depends on a distance, and a convolution that smooths: its weights are not negative and sum to 1.

    Args:
        model: The graph, with unique names of nodes.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    from_image = {value.name for value in model.graph.input}
    after_distance: set[str] = set()
    quantised: set[str] = set()  # names of values
    chosen = []
    for node in model.graph.node:
        varying = [name for name in node.input if name in from_image]
        if not varying or node.op_type in _SHAPE_OF:
            continue
        from_image.update(node.output)
        if node.op_type not in _NETWORK or not after_distance.isdisjoint(varying):
            after_distance.update(node.output)
            continue
        if not outputs.isdisjoint(node.output):
            continue
        is_chosen = (
            _has_trained_weights(node, weights)
            if node.op_type == "Conv"
            else node.op_type in _FOLLOWING and all(name in quantised for name in _tensors_of(node))
        )
        if is_chosen:
            quantised.update(node.output)
            chosen.append(node.name)
    return chosen


def with_anomalies(good: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return the images and a copy of each with a synthetic anomaly, whose activations leave the range of good ones.

    Args:
        good: uint8 `[K, H, W, 3]`, RGB.
        seed: Seed of the anomalies.

    Returns:
        uint8 `[2 K, H, W, 3]`, the good images first.
    """
    rng = np.random.default_rng(seed)
    changed = [np.rint(synthetic_anomaly(image, rng)[0] * 255).astype(np.uint8) for image in good]
    return np.concatenate([good, np.stack(changed)])


class _Calibrator(MinMaxCalibrater):  # type: ignore[misc] # ONNX Runtime has no type hints
    """Measures the ranges with a chosen number of threads; the original uses all cores of the host."""

    def __init__(self, path: Path, types: list[str], augmented: str, threads: int | None) -> None:
        super().__init__(path, types, augmented)
        self._threads = threads

    def create_inference_session(self) -> None:
        options = session_options(SessionOptions(provider="cpu", threads=self._threads))
        # With optimisations, an activation that was merged with its convolution would have no range of its own.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.infer_session = ort.InferenceSession(self.augmented_model_path, options, ["CPUExecutionProvider"])


class _Reader:
    """Gives ONNX Runtime's calibrator one image at a time, and reports those that it has measured.

    Args:
        images: uint8 `[N, H, W, 3]`.
        on_measured: Called with the number of images measured so far.
    """

    def __init__(self, images: NDArray[np.uint8], on_measured: Callable[[int], None]) -> None:
        self._images = images
        self._given = 0
        self._on_measured = on_measured

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        if self._given:  # the calibrator asks for the next image when it has measured the one before
            self._on_measured(self._given)
        if self._given == len(self._images):
            return None
        self._given += 1
        return {"image": self._images[self._given - 1][None]}

    def __iter__(self) -> Iterator[dict[str, NDArray[np.uint8]]]:
        return iter(self.get_next, None)


def _tensors_of(node: onnx.NodeProto) -> list[str]:
    """Return the inputs of a node that are tensors and not limits of a Clip."""
    return [node.input[0]] if node.op_type == "Clip" else list(node.input)


def _has_trained_weights(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    constants = [weights.get(name) for name in node.input[1:]]
    if any(tensor is None or tensor.data_type != onnx.TensorProto.FLOAT for tensor in constants):
        return False
    kernel: NDArray[Any] = numpy_helper.to_array(weights[node.input[1]])
    sums = kernel.reshape(len(kernel), -1).sum(axis=1)
    return bool((kernel < 0).any() or (np.abs(sums - 1) > _KERNEL_SUM_TOLERANCE).any())
