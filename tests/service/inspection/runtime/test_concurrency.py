"""Runs of one session at the same time: their number is measured, and no result depends on it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.runtime import concurrency
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.concurrency import choose_concurrency, measure_concurrency
from service.inspection.runtime.session import GraphSession, SessionOptions
from tests.bundles import write_tiny_bundle
from tests.graphs import convolutions


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


class WaitingRuns:
    """Runs that wait for something other than the processor: those of different threads pass at the same time.

    Their duration is counted. They sleep only so that the threads of a pool share them.
    """

    def __init__(self, run_s: float) -> None:
        self.run_s = run_s
        self.now = 0.0
        self._lock = threading.Lock()
        self._thread = threading.local()

    def run(self) -> None:
        with self._lock:
            begin = getattr(self._thread, "now", self.now)
        time.sleep(0.003)
        with self._lock:
            self._thread.now = begin + self.run_s
            self.now = max(self.now, self._thread.now)

    def clock(self) -> float:
        return self.now


def test_one_run_at_a_time_where_more_gain_nothing() -> None:
    machine = Machine(0.001)
    choice = measure_concurrency(machine.run, 4, clock=machine.clock)

    assert choice.concurrency == 1
    assert choice.images_per_s == pytest.approx({1: 1000, 2: 1000, 4: 1000})


def test_runs_that_wait_run_at_the_same_time() -> None:
    waiting = WaitingRuns(0.001)
    choice = measure_concurrency(waiting.run, 4, clock=waiting.clock)

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


@pytest.mark.parametrize(("narrow_s", "expected"), [(0.0018, (4, True)), (0.0021, (4, True)), (0.0023, (1, False))])
def test_runs_of_one_thread_each_may_be_a_little_slower_than_runs_that_follow_each_other(
    narrow_s: float, expected: tuple[int, bool]
) -> None:
    shared, narrow = Machine(0.002), Machine(narrow_s)
    choice = measure_concurrency(
        shared.run, 4, clock=lambda: shared.now + narrow.now, run_narrow=narrow.run, budget_s=100
    )

    assert (choice.concurrency, choice.is_narrow) == expected
    assert narrow.runs > 0


@pytest.mark.parametrize(("narrow_s", "is_narrow"), [(0.0010, True), (0.0011, True), (0.0012, False)])
def test_runs_of_one_thread_each_may_be_a_little_slower_than_shared_ones(
    monkeypatch: pytest.MonkeyPatch, narrow_s: float, *, is_narrow: bool
) -> None:
    seconds = {1: 0.002, 2: 0.001}
    shared, narrow = (lambda: None), (lambda: None)

    def take(run: Callable[[], object], concurrency: int, images: int, _clock: object) -> float:
        return images * (narrow_s if run is narrow else seconds[concurrency])

    monkeypatch.setattr(concurrency, "_time", take)
    choice = measure_concurrency(shared, 2, run_narrow=narrow)

    assert (choice.concurrency, choice.is_narrow) == (2, is_narrow)
    assert choice.images_per_s == pytest.approx({1: 500, 2: 1000})


@pytest.mark.parametrize(("stated", "expected"), [(None, {1, 2}), (1, {1}), (3, {3})])
def test_inspector_measures_what_is_not_stated(tmp_path: Path, stated: int | None, expected: set[int]) -> None:
    options = InspectorOptions(
        session=SessionOptions(provider="cpu", threads=2), batching=BatchingOptions(concurrency=stated)
    )
    inspector = Inspector.load(write_tiny_bundle(tmp_path).path, options)
    inspector.close()

    assert inspector.batcher.concurrency in expected


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
