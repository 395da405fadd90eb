"""Graphs in a replica that only runs graphs: which one is loaded, and when it is closed."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.bundle.arrays import UInt8Image
from service.bundle.bundle import Bundle
from service.bundle.errors import BundleIntegrity, BundleInvalid
from service.deployment.errors import UnknownBundle
from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.engine import Engine
from service.inspection.runtime.session import GraphOutput, GraphSession, Session, SessionOptions
from service.ray_serve.graph_id import GraphId
from service.ray_serve.graphs import GraphLoader, GraphLoads, LeasedGraph
from service.settings import Settings
from tests.bundles import part, write_tiny_bundle

CPU = SessionOptions(provider="cpu", threads=1)
GRAY = np.ascontiguousarray(part()[None])


class GatedSession(GraphSession):
    """A session whose runs wait at a gate once it is armed."""

    armed = False

    def __init__(self, model: bytes, options: SessionOptions) -> None:
        super().__init__(model, options)
        self.entered, self.gate = threading.Event(), threading.Event()
        self.closed: list[bool] = []

    def run(self, images: UInt8Image, *, keeps_memory: bool = True) -> GraphOutput:
        if self.armed:
            self.entered.set()
            assert self.gate.wait(10)
        return super().run(images, keeps_memory=keeps_memory)

    def close(self) -> None:
        self.closed.append(True)
        super().close()


@pytest.fixture
def gated(tiny_bundle: Bundle) -> Iterator[tuple[LeasedGraph, GatedSession]]:
    opened: list[GatedSession] = []

    def open_gated(bundle: Bundle, options: SessionOptions) -> Session:
        opened.append(GatedSession(bundle.read_model(), options))
        return opened[0]

    options = InspectorOptions(CPU, BatchingOptions(max_batch=1), engine=Engine(open_gated))
    graph = LeasedGraph(Inspector.open(tiny_bundle, options))
    yield graph, opened[0]
    opened[0].gate.set()
    graph.retire()


def test_a_graph_that_leaves_is_closed_after_its_last_run(gated: tuple[LeasedGraph, GatedSession]) -> None:
    graph, session = gated
    session.armed = True
    outputs: list[GraphOutput | None] = []
    thread = threading.Thread(target=lambda: outputs.append(graph.run(GRAY)))
    thread.start()
    assert session.entered.wait(10)
    graph.retire()
    assert session.closed == []
    assert graph.run(GRAY) is None  # the caller loads it again
    session.gate.set()
    thread.join(10)
    assert session.closed == [True]
    assert outputs[0] is not None
    assert outputs[0].maps.shape == (1, 16, 16)


def test_a_graph_without_references_is_closed(tiny_bundle: Bundle) -> None:
    options = InspectorOptions(CPU, BatchingOptions(max_batch=1))
    inspector = Inspector.open(tiny_bundle, options)
    session, thread = inspector.session, inspector.batcher._threads[0]
    graph = LeasedGraph(inspector)
    assert graph.facts.provider == "cpu"
    assert graph.facts.difference < 1e-3
    del graph, inspector
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(AttributeError):  # ONNX Runtime's session is gone
        session.run(GRAY)


def test_a_loaded_graph_returns_the_results_of_the_graph(
    tiny_bundle: Bundle, tiny_models: Path, tmp_path: Path
) -> None:
    loader = GraphLoader(Settings(models=tiny_models, data=tmp_path, provider="cpu", threads=1))
    try:
        graph = loader.load(GraphId.of(tiny_bundle))
        images = np.repeat(GRAY, 3, axis=0)
        output = graph.run(images)
        assert output is not None
        expected = GraphSession(tiny_bundle.read_model(), CPU).run(images)
        assert np.array_equal(output.maps, expected.maps)
        graph.retire()
    finally:
        loader.close()


def test_a_load_continues_if_the_run_that_needs_it_is_cancelled(
    gated: tuple[LeasedGraph, GatedSession], tiny_bundle: Bundle
) -> None:
    started, may_end = threading.Event(), threading.Event()
    loaded: list[GraphId] = []

    def load(graph: GraphId) -> LeasedGraph:
        started.set()
        assert may_end.wait(10)
        loaded.append(graph)
        return gated[0]

    async def use() -> list[LeasedGraph]:
        loads, graph = GraphLoads(load), GraphId.of(tiny_bundle)
        cancelled = asyncio.create_task(loads.load(graph))
        await asyncio.to_thread(started.wait, 10)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        waiting = [asyncio.create_task(loads.load(graph)) for _ in range(2)]
        may_end.set()
        return await asyncio.gather(*waiting)

    assert asyncio.run(use()) == [gated[0], gated[0]]
    assert loaded == [GraphId.of(tiny_bundle)]


def test_a_graph_that_nobody_takes_is_closed(gated: tuple[LeasedGraph, GatedSession], tiny_bundle: Bundle) -> None:
    may_end, (graph, session) = threading.Event(), gated

    def load(_graph: GraphId) -> LeasedGraph:
        assert may_end.wait(10)
        return graph

    async def use() -> None:
        loads, name = GraphLoads(load, kept_s=0.05), GraphId.of(tiny_bundle)
        await give_up(loads, name)
        may_end.set()
        while not session.closed:  # noqa: ASYNC110 - another thread closes it
            await asyncio.sleep(0.01)
        assert loads._tasks == loads._timers == {}

    asyncio.run(asyncio.wait_for(use(), 10))
    assert session.closed == [True]


def test_a_graph_that_is_taken_is_not_closed(gated: tuple[LeasedGraph, GatedSession], tiny_bundle: Bundle) -> None:
    async def use() -> None:
        loads, name = GraphLoads(lambda _: gated[0], kept_s=0.05), GraphId.of(tiny_bundle)
        await give_up(loads, name)
        await asyncio.sleep(0.02)
        assert await loads.load(name) is gated[0]
        assert loads._tasks == loads._timers == {}
        await asyncio.sleep(0.1)

    asyncio.run(use())
    assert gated[1].closed == []


def test_a_failure_that_nobody_waited_for_is_not_reported_later(tiny_bundle: Bundle) -> None:
    may_end, errors = threading.Event(), ["old", "new"]

    def load(_graph: GraphId) -> LeasedGraph:
        assert may_end.wait(10)
        raise BundleInvalid(tiny_bundle.path, f"{errors.pop(0)}.")

    async def use() -> None:
        loads, name = GraphLoads(load), GraphId.of(tiny_bundle)
        await give_up(loads, name)
        may_end.set()
        while loads._tasks:  # noqa: ASYNC110 - a callback of the load removes it
            await asyncio.sleep(0.01)
        with pytest.raises(BundleInvalid, match="new"):
            await loads.load(name)

    asyncio.run(asyncio.wait_for(use(), 10))


async def give_up(loads: GraphLoads, graph: GraphId) -> None:
    """Begin to wait for a graph, and stop waiting."""
    waiting = asyncio.create_task(loads.load(graph))
    await asyncio.sleep(0)  # the load begins
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_a_load_that_failed_is_tried_again(tiny_bundle: Bundle) -> None:
    errors = [BundleInvalid(tiny_bundle.path, "first."), BundleInvalid(tiny_bundle.path, "second.")]

    def load(_graph: GraphId) -> LeasedGraph:
        raise errors.pop(0)

    async def use() -> None:
        loads = GraphLoads(load)
        for message in ("first", "second"):
            with pytest.raises(BundleInvalid, match=message):
                await loads.load(GraphId.of(tiny_bundle))

    asyncio.run(use())


def test_what_is_not_the_named_bundle_is_not_loaded(tiny_bundle: Bundle, tiny_models: Path, tmp_path: Path) -> None:
    loader = GraphLoader(Settings(models=tiny_models, data=tmp_path, provider="cpu", threads=1))
    other = GraphId("widget", tiny_bundle.digest[:12] + "0" * 52)
    try:
        with pytest.raises(BundleIntegrity, match="its digest is not"):
            loader.load(other)
        with pytest.raises((UnknownBundle, BundleInvalid)):
            loader.load(GraphId("widget", "f" * 64))
    finally:
        loader.close()


def test_a_bundle_that_fails_its_golden_samples_is_not_loaded(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "models", offset=0.5)
    (tmp_path / "data").mkdir()
    loader = GraphLoader(Settings(models=tmp_path / "models", data=tmp_path / "data", provider="cpu", threads=1))
    try:
        with pytest.raises(BundleInvalid, match="golden"):
            loader.load(GraphId.of(bundle))
    finally:
        loader.close()


@pytest.mark.parametrize("text", ["", "widget", "widget@", "@" + "a" * 64, "widget@abc"])
def test_a_text_that_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected <product>@<digest"):
        GraphId.parse(text)


def test_an_identity_has_a_text_form(tiny_bundle: Bundle) -> None:
    graph = GraphId.of(tiny_bundle)
    assert str(graph) == f"widget@{tiny_bundle.digest}"
    assert GraphId.parse(str(graph)) == graph
    assert graph.version == tiny_bundle.version
