"""The deployment `Inspector`: replicas that hold sessions and run graphs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import ray
import structlog
from ray import serve

if TYPE_CHECKING:
    from service.bundle.arrays import UInt8Image
    from service.inspection.runtime.session import GraphOutput
    from service.ray_serve.graphs import GraphFacts, LeasedGraph

log = structlog.get_logger(__name__)


class InspectorReplica:
    """Runs graphs. The settings are those of the service, read from the environment of the replica."""

    def __init__(self) -> None:
        # Ray imports this module in further processes, which do not need ONNX Runtime.
        from service.inspection.runtime.configure import configure
        from service.monitoring.logs import configure_logging
        from service.ray_serve.graphs import GraphLoader, GraphLoads
        from service.settings import Settings

        settings = Settings()
        configure()
        configure_logging(settings)
        if settings.threads is None:
            settings = settings.model_copy(update={"threads": _assigned_cores()})
        self._loads = GraphLoads(GraphLoader(settings).load)

    async def load(self, graph_id: str) -> LeasedGraph:
        """Load a graph."""
        from service.ray_serve.graph_id import GraphId

        graph = GraphId.parse(graph_id)
        loaded = await self._loads.load(graph)
        log.info("graph loaded", product=graph.product, version=graph.version, provider=loaded.facts.provider)
        return loaded

    async def graph(self, graph_id: str) -> LeasedGraph:
        """Return a graph, and load it unless it is open; see `inspector_class`."""
        raise NotImplementedError

    async def describe(self) -> GraphFacts:
        """Return the facts of the graph that the request names by its multiplexed model id. Load it if necessary."""
        return (await self.graph(serve.get_multiplexed_model_id())).facts

    async def run(self, images: UInt8Image) -> GraphOutput:
        """Run the graph that the request names by its multiplexed model id.

        Args:
            images: uint8 [N, H, W, 3], RGB, of the graph's input size.
        """
        while True:
            graph = await self.graph(serve.get_multiplexed_model_id())
            output = await asyncio.to_thread(graph.run, images)
            if output is not None:
                return output


def inspector_class(graphs: int) -> type[InspectorReplica]:
    """Return the class of the deployment.

    Args:
        graphs: Most graphs that a replica keeps open. Ray takes the number with the decorator only.
    """

    class Inspector(InspectorReplica):
        @serve.multiplexed(max_num_models_per_replica=graphs)  # type: ignore[untyped-decorator]
        async def graph(self, graph_id: str) -> LeasedGraph:
            return await self.load(graph_id)

    return Inspector


def _assigned_cores() -> int:
    """Return the number of cores that Ray reserved for this replica, at least 1."""
    resources: dict[str, Any] = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 1)))
