"""Runs of one session at the same time: their number is measured, and no result depends on it."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.runtime import concurrency
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.concurrency import choose_concurrency, measure_concurrency
from service.inspection.runtime.session import GraphSession, SessionOptions
from tests.bundles import write_tiny_bundle


class Machine:
    """Runs whose duration is counted, not measured: they follow each other on a machine with one core."""

    def __init__(self, run_s: float) -> None:
        self.run_s = run_s
        self.now = 0.0
        self.runs = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        with self._lock:
            self.now += self.run_s
            self.runs += 1

    def clock(self) -> float:
        return self.now


def test_one_run_at_a_time_where_more_gain_nothing() -> None:
    machine = Machine(0.001)
    choice = measure_concurrency(machine.run, 4, clock=machine.clock)

    assert choice.concurrency == 1
    assert choice.images_per_s == pytest.approx({1: 1000, 2: 1000, 4: 1000})


def test_runs_that_wait_run_at_the_same_time() -> None:
    choice = measure_concurrency(lambda: time.sleep(0.003), 4)

    assert choice.concurrency == 4
    assert set(choice.images_per_s) == {1, 2, 4}


@pytest.mark.parametrize(
    ("threads", "candidates"), [(2, {1, 2}), (3, {1, 2, 3}), (6, {1, 2, 4, 6}), (64, {1, 2, 4, 8, 16})]
)
def test_candidates_are_powers_of_two_up_to_the_threads(threads: int, candidates: set[int]) -> None:
    machine = Machine(0.0001)
    assert set(measure_concurrency(machine.run, threads, clock=machine.clock).images_per_s) == candidates


def test_slow_graph_is_run_once_and_gets_one() -> None:
    machine = Machine(0.5)
    choice = measure_concurrency(machine.run, 2, clock=machine.clock)

    assert (choice.concurrency, choice.images_per_s, machine.runs) == (1, {}, 1)


def test_measurement_ends_with_its_budget() -> None:
    machine = Machine(0.1)
    measure_concurrency(machine.run, 2, 1.0, machine.clock)

    assert machine.runs == 1 + 2 * 4 * 2, "two of three rounds"


def test_graphs_of_one_kind_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "_measured", {})
    machine = Machine(0.001)
    first = choose_concurrency(("kind", 1), machine.run, 2)
    runs = machine.runs

    assert choose_concurrency(("kind", 1), machine.run, 2) is first
    assert machine.runs == runs > 0
    choose_concurrency(("kind", 2), machine.run, 2)
    assert machine.runs > runs


def test_one_thread_is_not_measured() -> None:
    machine = Machine(0.001)
    assert choose_concurrency("any", machine.run, 1).concurrency == 1
    assert machine.runs == 0


@pytest.mark.parametrize(("stated", "expected"), [(None, {1, 2}), (1, {1}), (3, {3})])
def test_inspector_measures_what_is_not_stated(tmp_path: Path, stated: int | None, expected: set[int]) -> None:
    options = InspectorOptions(
        session=SessionOptions(provider="cpu", threads=2), batching=BatchingOptions(concurrency=stated)
    )
    inspector = Inspector.load(write_tiny_bundle(tmp_path).path, options)
    inspector.close()

    assert inspector.batcher.concurrency in expected


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


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_runs_at_the_same_time_have_the_results_of_single_runs_to_the_last_bit(threads: int, batch: int) -> None:
    session = GraphSession(convolutions(), SessionOptions(provider="cpu", threads=threads))
    images = np.random.default_rng(1).integers(0, 256, (8, batch, 96, 96, 3), dtype=np.uint8)
    alone = [session.run(image).maps for image in images]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: session.run(image).maps, itertools.chain(*[images] * 5)))

    for index, found in enumerate(together):
        np.testing.assert_array_equal(found, alone[index % 8])
