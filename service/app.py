"""The application: wiring and lifespan, nothing else."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from service.api import pages
from service.api.http.middleware import BodyLimit, RequestContext
from service.api.http.problems import install_problem_handlers
from service.api.openapi import describe
from service.api.routes import batches, bundles, health, inspections, products, proposals, recipes, replays, stream
from service.deployment.registry import Registry
from service.deployment.rollout import Rollout
from service.deployment.startup import Startup
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.inspector import InspectorOptions
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.configure import configure
from service.inspection.runtime.session import SessionOptions
from service.monitoring.metrics import Metrics
from service.serving.inspections import InspectionLine
from service.serving.proposer import Proposer
from service.serving.readiness import ReadinessCheck
from service.serving.retention import RetentionSweeper
from service.settings import Settings
from service.store.store import Store

log = structlog.get_logger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application. Everything that runs or is open starts and ends with its lifespan."""
    configure()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The store first: without it no verdict could be given, so the process ends here and says why.
        store = await run_in_threadpool(Store.open, settings.database, settings.data)

        registry = Registry(settings.models, inspector_options(settings), metrics)
        line = InspectionLine(settings, registry, store, metrics)
        check = ReadinessCheck(settings, registry, line.admission)
        metrics.ready.set_function(lambda: float(check().is_ready))
        proposer = Proposer(store)
        app.state.line, app.state.readiness, app.state.proposer = line, check, proposer
        app.state.bundles = Rollout(registry, store.engine, metrics)
        app.state.replay_turn = asyncio.Lock()
        sweeper = RetentionSweeper(store, lambda: registry.known, metrics, settings.retention_interval_s)
        sweeper.start()
        # Loading takes seconds per product. Meanwhile the probes answer: alive, not ready yet.
        loader = threading.Thread(
            target=_load, args=(Startup(registry, store.engine),), name="bundle-loader", daemon=True
        )
        loader.start()
        try:
            yield
        finally:
            line.admission.close()
            await run_in_threadpool(_close, registry, loader, line, proposer, sweeper, store)

    app = FastAPI(
        title="Plumbline inspection service",
        version="1",  # of the API, which is the 1 in /v1
        summary="Images of parts in; pass, review or fail out, with the place of the defect.",
        lifespan=lifespan,
        # `service.api.pages` serves the documentation without external files.
        docs_url=None,
        redoc_url=None,
    )
    install_problem_handlers(app)
    # The last one added is the outermost: even a refused body has a request id and is counted.
    app.add_middleware(
        BodyLimit,
        limit_bytes=settings.max_body_bytes,
        bundle_bytes=settings.max_bundle_bytes,
        call_bytes=settings.max_call_bytes,
    )
    app.add_middleware(RequestContext, metrics=metrics)
    for room in (inspections, batches, replays, products, recipes, proposals, bundles, health, stream):
        app.include_router(room.router)
    app.include_router(pages.router)
    app.state.settings = settings
    describe(app)
    return app


def inspector_options(settings: Settings) -> InspectorOptions:
    """How products are run, as the settings say."""
    return InspectorOptions(
        session=SessionOptions(provider=settings.provider, threads=settings.threads),
        batching=BatchingOptions(
            max_batch=settings.max_batch,
            # Admission is the bound for all products together; a second, smaller one here would only confuse.
            queue_limit=settings.queue_limit,
            deadline_s=settings.queue_deadline_s,
        ),
        limits=ImageLimits(max_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels),
    )


def begin_drain(app: FastAPI) -> None:
    """Take no more images: not ready, and every new inspection is told to go elsewhere."""
    line: InspectionLine | None = getattr(app.state, "line", None)
    if line is not None and not line.admission.draining:
        line.admission.close()
        log.info("draining", waiting=line.admission.depth)


def open_streams(app: FastAPI) -> int:
    """Cameras that are still connected."""
    line: InspectionLine | None = getattr(app.state, "line", None)
    return 0 if line is None else line.streams.depth


def _load(startup: Startup) -> None:
    startup.run()
    # What was imported and loaded stays to the end. Without this the garbage collector walks through all of it again
    # and again, and everything waits: the probe, the line, the camera.
    gc.collect()
    gc.freeze()


def _close(
    registry: Registry,
    loader: threading.Thread,
    line: InspectionLine,
    proposer: Proposer,
    sweeper: RetentionSweeper,
    store: Store,
) -> None:
    line.shadow.close()
    registry.close()
    loader.join()
    line.close()
    proposer.close()
    sweeper.close()
    store.close()
    log.info("stopped")
