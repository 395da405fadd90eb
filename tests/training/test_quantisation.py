"""Quantisation: the networks compute in int8, everything that compares features stays float32."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.bundle.golden import parity_difference
from service.bundle.operators import operator_problems
from service.inspection.runtime.session import GraphSession, SessionOptions
from training.errors import NotConvertible
from training.quantisation import quantise, quantised_nodes, with_anomalies

SIZE = 32
CPU = SessionOptions(provider="cpu", threads=1)
RNG = np.random.default_rng(0)
WEIGHTS = {
    "first": RNG.normal(size=(8, 3, 3, 3)) / 5,
    "second": RNG.normal(size=(8, 8, 3, 3)) / 8,
    "student": RNG.normal(size=(8, 8, 1, 1)) / 3,
    "blur": np.full((1, 1, 3, 3), 1 / 9),
    "bias": RNG.normal(size=8) / 10,
}


def network(batch: str | int = "N") -> onnx.ModelProto:
    """Return a teacher of two convolutions, a student of one, the squared distance, and a smoothing convolution."""
    constants = {name: value.astype(np.float32) for name, value in WEIGHTS.items()}
    scalars = {"scale": 255, "low": 0, "high": 6, "two": 2}
    constants |= {name: np.array(value, np.float32) for name, value in scalars.items()}
    axes = {"channels": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["nchw", "scale"], ["unit"]),
        helper.make_node("Conv", ["unit", "first", "bias"], ["c1"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Clip", ["c1", "low", "high"], ["r1"]),
        helper.make_node("Conv", ["r1", "second", "bias"], ["c2"], pads=[1] * 4),
        helper.make_node("Add", ["c2", "r1"], ["teacher"]),
        helper.make_node("Conv", ["r1", "student"], ["c3"]),
        helper.make_node("Relu", ["c3"], ["student_out"]),
        helper.make_node("Sub", ["teacher", "student_out"], ["gap"]),
        helper.make_node("Pow", ["gap", "two"], ["square"]),
        helper.make_node("ReduceSum", ["square", "channels"], ["distance"], keepdims=1),
        helper.make_node("Conv", ["distance", "blur"], ["smooth"], pads=[1] * 4),
        helper.make_node("Squeeze", ["smooth", "channels"], ["anomaly_map"]),
    ]
    initialisers = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants | axes).items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, SIZE, SIZE, 3])
    maps = helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [batch, SIZE // 2, SIZE // 2])
    graph = helper.make_graph(nodes, "network", [image], [maps], initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{number}"
    onnx.checker.check_model(model, full_check=True)
    return model


def images(count: int = 6, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def quantised() -> onnx.ModelProto:
    model = quantise(network().SerializeToString(), images(), version="v", seed=0, threads=1)
    return onnx.load_model_from_string(model)


def test_networks_are_chosen_and_distances_and_smoothing_are_not() -> None:
    chosen = quantised_nodes(network())

    assert chosen == ["Conv4", "Clip5", "Conv6", "Add7", "Conv8", "Relu9"]


def test_smoothing_before_the_distance_is_not_chosen() -> None:
    model = network()
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "student")
    kernel = np.abs(WEIGHTS["student"]).astype(np.float32)
    weights.CopyFrom(numpy_helper.from_array(kernel / kernel.sum(axis=1, keepdims=True), "student"))

    assert quantised_nodes(model) == ["Conv4", "Clip5", "Conv6", "Add7"]


def test_convolution_with_computed_weights_is_not_chosen() -> None:
    model = network()
    model.graph.node.insert(0, helper.make_node("Identity", ["second"], ["computed"], name="Identity"))
    next(node for node in model.graph.node if node.name == "Conv6").input[1] = "computed"

    assert quantised_nodes(model) == ["Conv4", "Clip5", "Conv8", "Relu9"]


def test_weights_are_int8_per_channel_and_activations_uint8(quantised: onnx.ModelProto) -> None:
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    weights = {name: value for name, value in tensors.items() if value.dtype == np.int8 and value.ndim == 4}
    quantisers = [node for node in quantised.graph.node if node.op_type == "QuantizeLinear"]
    (smoothing,) = [node for node in quantised.graph.node if node.op_type == "Conv" and "blur" in node.input]

    assert sorted(value.shape for value in weights.values()) == [(8, 3, 3, 3), (8, 8, 1, 1), (8, 8, 3, 3)]
    for name in weights:
        (reader,) = [node for node in quantised.graph.node if name in node.input]
        assert tensors[reader.input[1]].shape == (8,), "one scale per output channel"
    assert {tensors[node.input[2]].dtype for node in quantisers} == {np.dtype(np.uint8)}
    assert tensors["blur"].dtype == np.float32
    assert smoothing.input[0] == "distance"
    assert not {"Pow", "ReduceSum"} - {node.op_type for node in quantised.graph.node}


def test_distances_read_dequantised_features(quantised: onnx.ModelProto) -> None:
    producer = {name: node.op_type for node in quantised.graph.node for name in node.output}
    (gap,) = [node for node in quantised.graph.node if node.op_type == "Sub"]

    assert [producer[name] for name in gap.input] == ["DequantizeLinear", "DequantizeLinear"]
    assert producer["distance"] == "ReduceSum"


def test_graph_is_accepted_as_a_bundles(quantised: onnx.ModelProto) -> None:
    assert list(operator_problems(quantised)) == []
    assert {entry.domain for entry in quantised.opset_import} <= {"", "ai.onnx"}
    assert all(tensor.HasField("raw_data") for tensor in quantised.graph.initializer)
    assert not quantised.metadata_props


@pytest.mark.parametrize("batch", [1, 3])
def test_map_resembles_that_of_the_fp32_graph(quantised: onnx.ModelProto, batch: int) -> None:
    shown = images(batch, seed=2)
    expected = GraphSession(network().SerializeToString(), CPU).run(shown).maps

    maps = GraphSession(quantised.SerializeToString(), CPU).run(shown).maps

    assert maps.shape == expected.shape
    assert 0 < parity_difference(expected, maps) < 0.1
    assert np.corrcoef(expected.ravel(), maps.ravel())[0, 1] > 0.99


def test_quantisation_is_deterministic_and_reports_each_image(quantised: onnx.ModelProto) -> None:
    measured: list[int] = []
    again = quantise(
        network().SerializeToString(), images(), version="v", seed=0, threads=1, on_measured=measured.append
    )

    assert measured == list(range(1, 13))  # six images and a copy of each with a synthetic anomaly
    assert again == quantised.SerializeToString(deterministic=True)


def test_ranges_are_those_of_the_images(quantised: onnx.ModelProto) -> None:
    dark = quantise(network().SerializeToString(), images() // 8, version="v", seed=0, threads=1)

    def input_scale(model: onnx.ModelProto) -> float:
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        (node,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "unit"]
        return float(tensors[node.input[1]])

    assert input_scale(quantised) == pytest.approx(1 / 255, rel=0.02)
    assert input_scale(onnx.load_model_from_string(dark)) < input_scale(quantised)


def test_quantised_graph_is_refused(quantised: onnx.ModelProto) -> None:
    with pytest.raises(NotConvertible, match="bundle v cannot be converted: its graph is quantised already"):
        quantise(quantised.SerializeToString(), images(), version="v", seed=0)


def test_graph_without_convolutions_is_refused() -> None:
    model = network()
    for tensor in model.graph.initializer:
        if tensor.name in {"first", "second", "student"}:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))

    with pytest.raises(NotConvertible, match="no convolution with constant weights"):
        quantise(model.SerializeToString(), images(), version="v", seed=0)


def test_anomalies_are_added_to_copies() -> None:
    good = images(3)
    both = with_anomalies(good, seed=0)

    np.testing.assert_array_equal(both[:3], good)
    assert both.shape == (6, SIZE, SIZE, 3)
    assert all((both[3 + number] != good[number]).any() for number in range(3))
