"""Runs of a bundle at the same time: with one thread each, their results are those of a run alone to the last bit."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle.arrays import Float32Map
from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.records import PreparedImage
from service.inspection.run_layout import choose_layout
from service.inspection.runtime import concurrency
from service.inspection.runtime.batching import BatchingOptions, MicroBatcher
from service.inspection.runtime.concurrency import ConcurrencyChoice
from service.inspection.runtime.session import GraphSession, SessionOptions
from tests.bundles import part, write_tiny_bundle
from tests.running_service import encode

CPU = SessionOptions(provider="cpu", threads=2)


@pytest.fixture(autouse=True)
def narrow_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a session of one thread be the fastest, if there is one."""

    def measure(_run: object, threads: int, _budget_s: float, *, run_narrow: object) -> ConcurrencyChoice:
        return ConcurrencyChoice(threads, {}, is_narrow=run_narrow is not None)

    monkeypatch.setattr(concurrency, "measure_concurrency", measure)
    monkeypatch.setattr(concurrency, "_measured", {})


def test_an_inspector_under_load_has_the_results_of_a_single_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_tiny_bundle(tmp_path)
    inspector = Inspector.load(bundle.path, InspectorOptions(CPU, BatchingOptions(concurrency=None)))
    ran_narrow: list[GraphSession] = []
    original = MicroBatcher._infer

    def recorded(batcher: MicroBatcher, batch: list[Any], session: GraphSession) -> None:
        if session is not inspector.session:
            ran_narrow.append(session)
        original(batcher, batch, session)

    monkeypatch.setattr(MicroBatcher, "_infer", recorded)
    images = [inspector.read(encode(part(brightness=level))) for level in range(0, 250, 25)]
    alone = [inspector.infer(image, on_this_thread=True).anomaly_map for image in images]

    def infer(image: PreparedImage) -> Float32Map:
        return inspector.infer(image, on_this_thread=True).anomaly_map

    together: list[np.ndarray] = []
    until = time.monotonic() + 30
    with ThreadPoolExecutor(4) as pool:
        while not ran_narrow and time.monotonic() < until:
            together += pool.map(infer, images * 20)

    inspector.close()
    assert ran_narrow, "no batch ran in the session of one thread"
    for index, found in enumerate(together):
        np.testing.assert_array_equal(found, alone[index % len(images)])


@pytest.mark.parametrize(
    ("batching", "runs", "has_narrow"),
    [
        (BatchingOptions(concurrency=None), 2, True),
        (BatchingOptions(concurrency=None, may_use_two_sessions=False), 2, False),
        (BatchingOptions(concurrency=3), 3, False),
    ],
)
def test_a_second_session_needs_a_measurement_and_memory(
    tmp_path: Path, batching: BatchingOptions, runs: int, *, has_narrow: bool
) -> None:
    bundle = write_tiny_bundle(tmp_path)
    layout = choose_layout(bundle, GraphSession(bundle.read_model(), CPU), batching)

    assert layout.concurrency == runs
    assert (layout.open_narrow is not None) is has_narrow


def test_runs_on_a_gpu_follow_each_other(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    session = GraphSession(bundle.read_model(), CPU)
    session.provider = "cuda"

    layout = choose_layout(bundle, session, BatchingOptions(concurrency=None))

    assert (layout.concurrency, layout.open_narrow) == (1, None)
