"""Open the graphs of bundles in a replica that only runs graphs, and close them when they are no longer used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from service.bundle.arrays import UInt8Image
from service.bundle.errors import BundleIntegrity
from service.deployment.configuration import bundle_loader
from service.deployment.passed_tests import SELF_TESTS, PassedSelfTests
from service.deployment.sources.opening import open_source
from service.inspection.inspector import Inspector
from service.inspection.runtime.session import GraphOutput, Provider
from service.ray_serve.graph_id import GraphId
from service.settings import Settings
from service.store.database import make_engine
from service.store.options import StoreOptions

_KEPT_S = 10.0
"""Seconds for which a graph is kept that was loaded after all who waited for it had given up."""


@dataclass(frozen=True)
class GraphFacts:
    """What the service has to know of a graph that another process runs.

    Attributes:
        provider: The execution provider that runs it.
        difference: Largest relative difference of its self-test from the results that training recorded.
    """

    provider: Provider
    difference: float


class LeasedGraph:
    """A graph that is closed when it was retired and its last run has ended.

    Ray's cache of multiplexed models calls `__del__` when a graph has to leave, whether it is in use or not.

    Args:
        inspector: Its inspector, which this object closes. Only its session is used.
    """

    def __init__(self, inspector: Inspector) -> None:
        self.facts = GraphFacts(inspector.provider, inspector.self_test_difference)
        self._inspector = inspector
        self._turns = nullcontext() if inspector.session.may_run_concurrently else threading.Lock()
        self._lock = threading.Lock()
        self._runs = 0
        self._is_retired = False
        self._is_closed = False

    def run(self, images: UInt8Image) -> GraphOutput | None:
        """Run the graph on exactly this batch.

        Args:
            images: uint8 [N, H, W, 3], RGB, of the graph's input size.

        Returns:
            The output; None if the graph was retired, so that it has to be loaded again.
        """
        with self._lock:
            if self._is_retired:
                return None
            self._runs += 1
        try:
            with self._turns:
                return self._inspector.session.run(images)
        finally:
            with self._lock:
                self._runs -= 1
            self._close_if_unused()

    def retire(self) -> None:
        """Refuse further runs, and close the graph when none is in progress."""
        with self._lock:
            self._is_retired = True
        self._close_if_unused()

    def __del__(self) -> None:
        self.retire()

    def _close_if_unused(self) -> None:
        with self._lock:
            if self._is_closed or self._runs or not self._is_retired:
                return
            self._is_closed = True
        self._inspector.close()


class GraphLoader:
    """Loads the graphs that a replica runs, verified as by the service: hashes, limits, golden samples.

    Args:
        settings: The settings. Of several runs at the same time, the caller takes care.
    """

    def __init__(self, settings: Settings) -> None:
        settings = settings.model_copy(update={"concurrent_runs": 1})
        database = None
        if settings.bundle_store:
            database = make_engine(settings.database, options=StoreOptions.of(settings).database)
        self._database = database
        self._source = open_source(settings, database)
        self._loader = bundle_loader(settings, PassedSelfTests(settings.data / SELF_TESTS))

    def load(self, graph: GraphId) -> LeasedGraph:
        """Fetch and verify a bundle, open its graph, and run its golden samples here.

        Raises:
            BundleInvalid: It cannot be served, or its digest is another one.
            ProviderUnavailable: The execution provider cannot be used here.
            UnknownBundle, BundleStoreUnavailable, StoreUnavailable: It cannot be fetched.
        """
        inspector = self._source.use(graph.product, graph.version, lambda path: self._loader.load(path, graph.product))
        if inspector.bundle.digest != graph.digest:
            inspector.close()
            raise BundleIntegrity(inspector.bundle.path, f"its digest is not {graph.digest}.")
        return LeasedGraph(inspector)

    def close(self) -> None:
        """End loading, and close the connections."""
        self._loader.close()
        self._source.close()
        if self._database is not None:
            self._database.dispose()


class GraphLoads:
    """Loads graphs on threads, each once for all that wait for it.

    A load continues if the one who waits for it gives up, for example because a run took too long: the next one needs
    the graph, too, and gets it at once. If nobody does within some seconds, the graph is closed, because Ray does not
    know it. A failure is reported to those only who waited for it.

    Args:
        load: Loads a graph.
        kept_s: Seconds for which a graph is kept that nobody waits for.
    """

    def __init__(self, load: Callable[[GraphId], LeasedGraph], kept_s: float = _KEPT_S) -> None:
        self._load = load
        self._kept_s = kept_s
        self._tasks: dict[GraphId, asyncio.Task[LeasedGraph]] = {}
        self._timers: dict[GraphId, asyncio.TimerHandle] = {}
        """End the wait for someone who needs a graph that was loaded."""

    async def load(self, graph: GraphId) -> LeasedGraph:
        """Return a graph that was loaded.

        Raises:
            Exception: What `load` raises.
        """
        task = self._tasks.get(graph)
        if task is None:
            task = self._tasks[graph] = asyncio.create_task(asyncio.to_thread(self._load, graph))
            task.add_done_callback(partial(self._end, graph))
        loaded = await asyncio.shield(task)
        self._remove(graph, task)
        return loaded

    def _end(self, graph: GraphId, task: asyncio.Task[LeasedGraph]) -> None:
        """Remove a load that failed, and one that succeeded if nobody takes its graph in time."""
        if task.cancelled() or task.exception() is not None:
            self._remove(graph, task)
        elif self._tasks.get(graph) is task:
            loop = task.get_loop()
            self._timers[graph] = loop.call_later(self._kept_s, self._discard, graph, task)

    def _discard(self, graph: GraphId, task: asyncio.Task[LeasedGraph]) -> None:
        if self._remove(graph, task):
            task.get_loop().run_in_executor(None, task.result().retire)  # closing a graph takes a while

    def _remove(self, graph: GraphId, task: asyncio.Task[LeasedGraph]) -> bool:
        """Remove a load. Return whether it was there; the graph may be loaded again already."""
        if self._tasks.get(graph) is not task:
            return False
        del self._tasks[graph]
        if (timer := self._timers.pop(graph, None)) is not None:
            timer.cancel()
        return True
