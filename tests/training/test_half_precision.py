"""Conversion to float16: the networks compute in it, distances and smoothing do not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from service.bundle.golden import parity_difference
from service.bundle.operators import operator_problems
from service.inspection.runtime.session import GraphSession
from tests.training.test_quantisation import CPU, images, network
from training.errors import NotConvertible
from training.half_precision import halve


@pytest.fixture(scope="module")
def half() -> onnx.ModelProto:
    return onnx.load_model_from_string(halve(network().SerializeToString(), version="v"))


def test_weights_of_the_networks_are_float16_and_those_of_the_smoothing_are_not(half: onnx.ModelProto) -> None:
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}

    assert {types[f"{name}_half"] for name in ("first", "second", "student", "bias")} == {TensorProto.FLOAT16}
    assert types["blur"] == types["two"] == TensorProto.FLOAT
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert list(operator_problems(half)) == []


def test_distances_read_float32(half: onnx.ModelProto) -> None:
    producer = {name: node for node in half.graph.node for name in node.output}
    (gap,) = [node for node in half.graph.node if node.op_type == "Sub"]

    for name in gap.input:
        assert producer[name].op_type == "Cast"
        assert producer[name].attribute[0].i == TensorProto.FLOAT


@pytest.mark.parametrize("batch", [1, 3])
def test_map_resembles_that_of_the_fp32_graph(half: onnx.ModelProto, batch: int) -> None:
    shown = images(batch, seed=2)
    expected = GraphSession(network().SerializeToString(), CPU).run(shown).maps

    assert 0 < parity_difference(expected, GraphSession(half.SerializeToString(), CPU).run(shown).maps) < 0.01


def test_graph_without_convolutions_is_refused() -> None:
    model = network()
    for tensor in model.graph.initializer:
        if tensor.name in {"first", "second", "student"}:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))

    with pytest.raises(NotConvertible, match="no convolution with constant weights"):
        halve(model.SerializeToString(), version="v")
