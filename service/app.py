"""The application: construction of all objects, and what starts and stops with it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from service.access.control import AccessControl
from service.api import pages
from service.api.deps import Services, require_permitted
from service.api.http.access import AccessMiddleware, operations_of
from service.api.http.body_limit import BodyLimitMiddleware
from service.api.http.certificates import CertificateFiles, CertificateUnusable
from service.api.http.head import HeadMiddleware
from service.api.http.middleware import RequestContext
from service.api.http.origin import OriginGuard
from service.api.http.problems import install_problem_handlers
from service.api.http.query import require_declared_query
from service.api.http.response_guard import ResponseGuard
from service.api.http.server_paths import ServerPaths
from service.api.mapping import to_inspection
from service.api.openapi import describe, serve_document
from service.api.routers import ROUTERS
from service.deployment.configuration import bundle_loader, drift_limits, memory_limits, running_limit, upload_limits
from service.deployment.passed_tests import SELF_TESTS, PassedSelfTests
from service.deployment.reference_scores import ReferenceScores
from service.deployment.registry import Registry
from service.deployment.revisions import RevisionFollower
from service.deployment.rollout import Rollout
from service.deployment.shadow import ShadowRunner
from service.deployment.sources.opening import open_source
from service.deployment.start import load_products
from service.deployment.uploads import BundleUploads
from service.deployment.used_products import USED_PRODUCTS, UsedProducts
from service.inspection.runtime.configure import configure
from service.inspection.runtime.engine import IN_PROCESS, Engine
from service.integrations.events import Render
from service.integrations.interfaces import Interfaces, open_interfaces
from service.integrations.opcua.state import ServiceState
from service.integrations.start import Integrations, Sinks, open_sinks
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.monitoring.refusals import RefusalLog
from service.serving.admission import Admission
from service.serving.alarms import AlarmService, AlarmSources
from service.serving.archive_space import ArchiveSpace
from service.serving.artefacts import ArtefactService
from service.serving.audit import AuditHeadReporter, AuditService
from service.serving.bundles import BundleService
from service.serving.distributions import DistributionService
from service.serving.drift.guarantees import Guarantees
from service.serving.drift.monitor import DriftMonitor
from service.serving.drift.service import DriftService
from service.serving.events import InspectionEvents
from service.serving.explanations import ExplanationService
from service.serving.exports import ExportService
from service.serving.hooks import InspectionHooks
from service.serving.inspections import InspectionService
from service.serving.judging import Judging
from service.serving.memory_budget import MemoryBudget
from service.serving.previews import PreviewService
from service.serving.products import ProductService
from service.serving.proposals import ProposalService
from service.serving.readiness import ReadinessCheck
from service.serving.recipe_previews import RecipePreviewService
from service.serving.recipes import RecipeService
from service.serving.record_jobs import RecordJobs
from service.serving.record_removal import RecordRemover
from service.serving.replays import ReplayService
from service.serving.reports import ReportService
from service.serving.retention import RetentionSweeper
from service.serving.reviews import ReviewService
from service.serving.shadow_heatmaps import ShadowHeatmapService
from service.serving.shifts import ShiftService
from service.serving.streams import StreamService
from service.serving.summaries import SummaryService
from service.serving.system import SystemService
from service.serving.training.jobs import TrainingService
from service.serving.trials import TrialService
from service.settings import Settings
from service.store.health import StoreHealth
from service.store.options import StoreOptions
from service.store.probe import StoreProbe
from service.store.store import Store
from service.web.page import Pages
from service.web.problem_pages import ProblemPages
from service.web.query import require_known_query
from service.web.routers import PAGE_ROUTERS
from service.web.start_page import StartPage
from service.web.translated_problems import TranslatedProblems

log = structlog.get_logger(__name__)
# Loading ends at once when the registry is closed, unless native code hangs; then it is left behind.
LOADING_STOP_S = 5.0


class Runtime:
    """Everything that a running application consists of.

    Args:
        settings: The settings.
        store: The opened store; it is closed by `close`.
        metrics: The metrics of the application.
        refusals: Logs requests and images that are refused.
        sinks: The webhooks and MQTT brokers to which inspections are sent.
        interfaces: OPC UA and OpenTelemetry; None without them.
        engine: Runs the graphs.

    Raises:
        AccessNotConfigured: The network could reach the service, and there is no key and no account.
        StoreUnavailable: The database cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        refusals: RefusalLog,
        sinks: Sinks = (),
        interfaces: Interfaces | None = None,
        engine: Engine = IN_PROCESS,
    ) -> None:
        self.store, self.metrics = store, metrics
        self.interfaces = interfaces or Interfaces()
        self.access = AccessControl(settings, store.engine)
        self.access.require_safe_binding()
        metrics.insecure.set_function(lambda: float(self.access.is_insecure))
        self.store_health = StoreHealth(StoreProbe(store, settings.min_data_free_bytes))
        loader = bundle_loader(settings, PassedSelfTests(settings.data / SELF_TESTS), engine)
        source = open_source(settings, store.engine, metrics.bundle_store)
        self.registry = Registry(settings.models, loader, metrics, memory_limits(settings), source)
        self._used = UsedProducts(self.registry, settings.data / USED_PRODUCTS)
        self._load_ahead_s = settings.load_ahead_s
        rollout = Rollout(self.registry, store.engine, metrics, BundleUploads(settings.models, upload_limits(settings)))
        self.admission = Admission(settings.queue_limit, running_limit(settings, engine))
        references = ReferenceScores(store.engine)
        clock = Clock(lambda direction: metrics.clock_jumps.labels(direction).inc())
        render = Render(to_inspection, self.interfaces.traceparent)
        self._integrations = Integrations(settings, store, sinks, render, metrics.outbox, clock)
        guarantees = Guarantees()
        self._drift = DriftMonitor(drift_limits(settings), self.registry, store, references, guarantees, metrics, clock)
        self.shadow = ShadowRunner(self.registry, store, references, metrics)
        events = InspectionEvents(store, settings, metrics, lambda record: to_inspection(record).model_dump_json())
        judging = Judging(references, guarantees, settings.queue_deadline_s)
        inspection_service = InspectionService(
            settings,
            self.registry,
            store,
            judging=judging,
            shadow=self.shadow,
            admission=self.admission,
            metrics=metrics,
            health=self.store_health,
            clock=clock,
            refusals=refusals,
            hooks=InspectionHooks((*self.interfaces.listeners, events.notify), self.interfaces.part_ids),
            require_valid=self.access.changes.require_valid,
        )
        self._record_jobs = RecordJobs()
        recipe_service = RecipeService(self.registry, store)
        artefacts = ArtefactService(settings, store, metrics)
        shifts = ShiftService(store, settings, clock, metrics.count_refused)
        readiness = ReadinessCheck(self.registry, self.admission, self.store_health, settings.required_products)
        drift_service = DriftService(self.registry, store, guarantees, self._drift, clock)
        sources = self._alarm_sources(settings, readiness, drift_service)
        products = ProductService(self.registry, guarantees)
        self.services = Services(
            alarms=AlarmService(sources, self.registry, store, events.feed, shifts),
            inspections=inspection_service,
            summaries=SummaryService(store, self._record_jobs, clock),
            shifts=shifts,
            exports=ExportService(store, self._record_jobs),
            reports=ReportService(store, self._record_jobs, clock),
            events=events,
            artefacts=artefacts,
            previews=PreviewService(settings, store, artefacts),
            trials=TrialService(settings, self.registry, judging, metrics, clock),
            streams=StreamService(inspection_service, self.admission, settings, metrics),
            products=products,
            bundles=BundleService(settings.models, self.registry, rollout, store),
            recipes=recipe_service,
            recipe_previews=RecipePreviewService(self.registry, store, recipe_service, references),
            distributions=DistributionService(self.registry, store, references, clock),
            shadow_heatmaps=ShadowHeatmapService(settings, self.registry, store, references),
            explanations=ExplanationService(settings, self.registry, store),
            proposals=ProposalService(self.registry, store),
            replays=ReplayService(self.registry, store),
            audit=AuditService(store.engine),
            reviews=ReviewService(self.registry, store, metrics, clock),
            readiness=readiness,
            outbox=self._integrations.service,
            drift=drift_service,
            system=SystemService(settings, readiness, products, self.admission, metrics, refusals),
            training=TrainingService(settings, self.registry, store, metrics.training, clock),
        )
        follower = RevisionFollower(self.registry, store.engine, follow_audit=self.access.changes.follow)
        self._follower = follower if store.is_shared else None
        remover = RecordRemover(store, settings.record_days, metrics.storage, clock)
        self._sweeper = RetentionSweeper(
            store,
            lambda: self.registry.known,
            metrics,
            settings.retention_interval_s,
            clock=clock,
            key_age=timedelta(hours=settings.idempotency_hours),
            others=(self.services.training.sweep,),
            followers=(self.services.training.refresh, remover.release),
            records=remover.sweep,
        )
        self._audit_heads = AuditHeadReporter(store.engine, metrics, settings.audit_head_interval_s)
        # Loading takes seconds per product. Meanwhile the service is alive, but not ready.
        self._loader = threading.Thread(target=self._load, name="bundle-loader", daemon=True)
        metrics.set_queue(lambda: self.admission.depth, settings.queue_limit)
        metrics.ready.set_function(lambda: float(self.services.readiness().is_ready))

    def start(self) -> None:
        """Start the background threads."""
        self.store_health.start()
        self.access.start()
        if self._follower is not None:
            self._follower.start()
        self._sweeper.start()
        self._audit_heads.start()
        self.services.events.start()
        self.services.alarms.start()
        self._integrations.start()
        self._drift.start()
        self._loader.start()
        # Last, because it may fail; everything that `close` ends is running then.
        self.interfaces.start(self._state)

    def close(self) -> None:
        """Complete the work in flight and stop all threads."""
        self.shadow.close()
        if self._follower is not None:
            self._follower.close()
        self._used.close()
        self.registry.close()
        self._loader.join(LOADING_STOP_S)
        self.services.inspections.close()
        self.services.alarms.close()
        self.services.shifts.close()
        self.services.events.close()
        self._drift.close()
        self._integrations.close()
        self.interfaces.close()
        self.services.previews.close()
        self.services.trials.close()
        self.services.artefacts.close()
        self.services.shadow_heatmaps.close()
        self.services.explanations.close()
        self.services.proposals.close()
        self.services.training.close()
        self._record_jobs.close()
        self._sweeper.close()
        self._audit_heads.close()
        self.access.close()
        self.store_health.close()
        self.store.close()
        log.info("stopped")

    def _alarm_sources(self, settings: Settings, readiness: ReadinessCheck, drift: DriftService) -> AlarmSources:
        certificate = CertificateFiles.from_settings(settings)

        def certificate_expiry() -> datetime | None:
            try:
                return None if certificate is None else certificate.examine().not_after
            except CertificateUnusable:
                return None  # the one in use stays; the reloader logs the reason

        def dead_letters() -> dict[str, int]:
            return {sink.name: sink.backlog.dead_letters for sink in self._integrations.service.summary()}

        return AlarmSources(
            drift_states=drift.alarm_states,
            readiness=readiness,
            store_health=self.store_health,
            folders={"data": settings.data, "models": settings.models},
            dead_letters=dead_letters,
            is_insecure=lambda: self.access.is_insecure,
            certificate_expiry=certificate_expiry,
        )

    def _state(self) -> ServiceState:
        report = self.services.readiness()
        is_usable = report.is_ready or report.status == "draining"
        return ServiceState(report.is_ready, is_usable, frozenset(report.products))

    def _load(self) -> None:
        load_products(
            self.registry,
            self.store.engine,
            self.metrics.bundle_store,
            self._used,
            is_followed=self._follower is not None,
            ahead_s=self._load_ahead_s,
        )


def create_app(settings: Settings, engine: Engine = IN_PROCESS) -> FastAPI:
    """Return the service as an ASGI application. Threads and connections start and end with its lifespan."""
    configure()
    metrics = Metrics()
    refusals = RefusalLog(settings.log_refusals_per_minute)
    metrics.storage.set_folders({"data": settings.data, "models": settings.models})
    body_memory = MemoryBudget(settings.max_inflight_body_bytes)
    response_memory = MemoryBudget(settings.max_inflight_body_bytes)
    metrics.http.set_body_memory(
        lambda: body_memory.used, lambda: response_memory.used, settings.max_inflight_body_bytes
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The store is opened first: without it there are no decisions, so the process ends here with the reason.
        sinks = open_sinks(settings.sinks)
        interfaces = await run_in_threadpool(open_interfaces, settings, metrics.registry)
        store = await run_in_threadpool(Store.open, settings.database, settings.data, StoreOptions.of(settings))
        try:
            runtime = Runtime(settings, store, metrics, refusals, sinks, interfaces, engine)
        except BaseException:
            await run_in_threadpool(store.close)
            raise
        app.state.runtime, app.state.services, app.state.access = runtime, runtime.services, runtime.access
        try:
            await run_in_threadpool(runtime.start)
            yield
        finally:
            runtime.admission.close()
            runtime.services.events.drain()
            await run_in_threadpool(runtime.close)
            refusals.flush()

    app = FastAPI(
        title="Plumbline inspection service",
        version="1",  # of the API, as in /v1
        summary="Inspects images of parts: returns pass, review or fail, and the location of defects.",
        lifespan=lifespan,
        # A redirect has no body that explains it, and clients that do not follow it would report success.
        redirect_slashes=False,
        # `service.api.pages` serves the documentation without external files.
        docs_url=None,
        redoc_url=None,
    )
    install_problem_handlers(app)
    # The middleware added last is the outermost: a refused body has a request id and is counted, too.
    app.add_middleware(BodyLimitMiddleware, settings=settings, routers=(*ROUTERS, *PAGE_ROUTERS), memory=body_memory)
    app.add_middleware(AccessMiddleware, routes=app.routes, settings=settings, metrics=metrics, refusals=refusals)
    app.add_middleware(ResponseGuard, memory=response_memory)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(settings.allowed_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    app.add_middleware(OriginGuard, settings=settings)
    app.state.pages = Pages(ZoneInfo(settings.time_zone))
    app.add_middleware(ProblemPages, pages=app.state.pages)
    app.add_middleware(TranslatedProblems, pages=app.state.pages)
    # Outside of the pages of problems, which are made from the body of a problem.
    app.add_middleware(HeadMiddleware)
    app.add_middleware(StartPage)
    app.add_middleware(RequestContext, metrics=metrics, refusals=refusals, paths=ServerPaths(settings))
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(require_permitted), Depends(require_declared_query)])
    for router in PAGE_ROUTERS:
        app.include_router(router, dependencies=[Depends(require_permitted), Depends(require_known_query)])
    app.include_router(pages.router)
    app.state.settings, app.state.metrics, app.state.body_memory = settings, metrics, body_memory
    app.state.archive_space = ArchiveSpace(settings.data, settings.min_data_free_bytes)
    serve_document(app)
    list(operations_of(app.routes))  # fails if an endpoint declares no scope
    describe(app)
    return app


def begin_drain(app: FastAPI) -> None:
    """Admit no new images, report not ready, and end streams of events. Call it on the thread of the event loop."""
    runtime: Runtime | None = getattr(app.state, "runtime", None)
    if runtime is not None and not runtime.admission.is_draining:
        runtime.admission.close()
        runtime.services.events.drain()
        runtime.registry.loader.close()
        log.info("draining", in_flight=runtime.admission.depth)


def open_streams(app: FastAPI) -> int:
    """Return the number of cameras that are connected."""
    runtime: Runtime | None = getattr(app.state, "runtime", None)
    return 0 if runtime is None else runtime.services.streams.open_count
