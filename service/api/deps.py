"""The service objects that routes depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from service.access.control import AccessControl
from service.access.principal import Principal
from service.api.http.access import principal_of, require_checked
from service.api.http.clients import client_of
from service.api.http.problems import request_id
from service.integrations.outbox import OutboxService
from service.monitoring.metrics import Metrics
from service.serving.alarms import AlarmService
from service.serving.archive_space import ArchiveSpace
from service.serving.artefacts import ArtefactService
from service.serving.audit import AuditService
from service.serving.bundles import BundleService
from service.serving.distributions import DistributionService
from service.serving.drift.service import DriftService
from service.serving.events import InspectionEvents
from service.serving.explanations import ExplanationService
from service.serving.exports import ExportService
from service.serving.inspections import InspectionService
from service.serving.memory_budget import MemoryBudget
from service.serving.previews import PreviewService
from service.serving.products import ProductService
from service.serving.proposals import ProposalService
from service.serving.readiness import ReadinessCheck
from service.serving.recipe_previews import RecipePreviewService
from service.serving.recipes import RecipeService
from service.serving.replays import ReplayService
from service.serving.reports import ReportService
from service.serving.reviews import ReviewService
from service.serving.shadow_heatmaps import ShadowHeatmapService
from service.serving.shifts import ShiftService
from service.serving.streams import StreamService
from service.serving.summaries import SummaryService
from service.serving.system import SystemService
from service.serving.training.jobs import TrainingService
from service.serving.trials import TrialService
from service.settings import Settings
from service.store.audit import MAX_ADDRESS, Actor


@dataclass(frozen=True)
class Services:
    """The service objects of a running application, kept in `app.state.services`."""

    inspections: InspectionService
    alarms: AlarmService
    summaries: SummaryService
    shifts: ShiftService
    exports: ExportService
    reports: ReportService
    events: InspectionEvents
    artefacts: ArtefactService
    previews: PreviewService
    trials: TrialService
    streams: StreamService
    products: ProductService
    bundles: BundleService
    recipes: RecipeService
    recipe_previews: RecipePreviewService
    distributions: DistributionService
    shadow_heatmaps: ShadowHeatmapService
    explanations: ExplanationService
    proposals: ProposalService
    replays: ReplayService
    audit: AuditService
    reviews: ReviewService
    readiness: ReadinessCheck
    outbox: OutboxService
    drift: DriftService
    system: SystemService
    training: TrainingService


def services_of(connection: HTTPConnection) -> Services:
    """Return the service objects of the application that serves a request or WebSocket."""
    services: Services = connection.app.state.services
    return services


async def require_permitted(connection: HTTPConnection) -> None:
    """Check that the request was admitted, and that its principal may use the inspection in the path.

    It is a dependency of every router. An inspection of another product or station is reported as unknown, so that its
    existence is not disclosed.

    Raises:
        UnknownInspection: There is no such inspection, or the principal may not use it.
        StoreUnavailable: The database cannot be read.
    """
    require_checked(connection)
    principal = principal_of(connection)
    inspection_id = connection.path_params.get("inspection_id")
    if inspection_id is None or not principal.is_restricted:
        return
    inspections = services_of(connection).inspections
    record = await inspections.find(inspection_id)
    if not principal.may_use(record.product, record.station):
        raise await inspections.missing(record.id)


# Dependencies are async although they do not wait: FastAPI runs plain functions in its thread pool.


async def _inspections(connection: HTTPConnection) -> InspectionService:
    return services_of(connection).inspections


async def _alarms(connection: HTTPConnection) -> AlarmService:
    return services_of(connection).alarms


async def _summaries(connection: HTTPConnection) -> SummaryService:
    return services_of(connection).summaries


async def _shifts(connection: HTTPConnection) -> ShiftService:
    return services_of(connection).shifts


async def _exports(connection: HTTPConnection) -> ExportService:
    return services_of(connection).exports


async def _reports(connection: HTTPConnection) -> ReportService:
    return services_of(connection).reports


async def _events(connection: HTTPConnection) -> InspectionEvents:
    return services_of(connection).events


async def _artefacts(connection: HTTPConnection) -> ArtefactService:
    return services_of(connection).artefacts


async def _previews(connection: HTTPConnection) -> PreviewService:
    return services_of(connection).previews


async def _trials(connection: HTTPConnection) -> TrialService:
    return services_of(connection).trials


async def _streams(connection: HTTPConnection) -> StreamService:
    return services_of(connection).streams


async def _products(connection: HTTPConnection) -> ProductService:
    return services_of(connection).products


async def _bundles(connection: HTTPConnection) -> BundleService:
    return services_of(connection).bundles


async def _recipes(connection: HTTPConnection) -> RecipeService:
    return services_of(connection).recipes


async def _recipe_previews(connection: HTTPConnection) -> RecipePreviewService:
    return services_of(connection).recipe_previews


async def _distributions(connection: HTTPConnection) -> DistributionService:
    return services_of(connection).distributions


async def _shadow_heatmaps(connection: HTTPConnection) -> ShadowHeatmapService:
    return services_of(connection).shadow_heatmaps


async def _explanations(connection: HTTPConnection) -> ExplanationService:
    return services_of(connection).explanations


async def _proposals(connection: HTTPConnection) -> ProposalService:
    return services_of(connection).proposals


async def _replays(connection: HTTPConnection) -> ReplayService:
    return services_of(connection).replays


async def _reviews(connection: HTTPConnection) -> ReviewService:
    return services_of(connection).reviews


async def _readiness(connection: HTTPConnection) -> ReadinessCheck:
    return services_of(connection).readiness


async def _outbox(connection: HTTPConnection) -> OutboxService:
    return services_of(connection).outbox


async def _drift(connection: HTTPConnection) -> DriftService:
    return services_of(connection).drift


async def _system(connection: HTTPConnection) -> SystemService:
    return services_of(connection).system


async def _training(connection: HTTPConnection) -> TrainingService:
    return services_of(connection).training


async def _metrics(connection: HTTPConnection) -> Metrics:
    metrics: Metrics = connection.app.state.metrics
    return metrics


async def _principal(connection: HTTPConnection) -> Principal:
    return principal_of(connection)


async def _actor(connection: HTTPConnection) -> Actor:
    actor = await _sender(connection)
    assert actor.kind != "anonymous", "an endpoint that changes something needs a scope"
    return actor


async def _sender(connection: HTTPConnection) -> Actor:
    principal = principal_of(connection)
    return Actor(
        kind=principal.kind,
        id=principal.id,
        name=principal.name,
        # A proxy may report any text as the address.
        address=connection.client.host[:MAX_ADDRESS] if connection.client else None,
        request_id=request_id(connection.scope),
        is_admin="admin" in principal.scopes,
    )


async def _audit(connection: HTTPConnection) -> AuditService:
    return services_of(connection).audit


async def _access(connection: HTTPConnection) -> AccessControl:
    control: AccessControl = connection.app.state.access
    return control


async def _client(connection: HTTPConnection) -> str:
    return client_of(connection.scope)


async def _archive_space(connection: HTTPConnection) -> ArchiveSpace:
    space: ArchiveSpace = connection.app.state.archive_space
    return space


async def _body_memory(connection: HTTPConnection) -> MemoryBudget:
    memory: MemoryBudget = connection.app.state.body_memory
    return memory


async def _settings(connection: HTTPConnection) -> Settings:
    settings: Settings = connection.app.state.settings
    return settings


InspectionsDep = Annotated[InspectionService, Depends(_inspections)]
AlarmsDep = Annotated[AlarmService, Depends(_alarms)]
SummariesDep = Annotated[SummaryService, Depends(_summaries)]
ShiftsDep = Annotated[ShiftService, Depends(_shifts)]
ExportsDep = Annotated[ExportService, Depends(_exports)]
ReportsDep = Annotated[ReportService, Depends(_reports)]
EventsDep = Annotated[InspectionEvents, Depends(_events)]
ArtefactsDep = Annotated[ArtefactService, Depends(_artefacts)]
PreviewsDep = Annotated[PreviewService, Depends(_previews)]
TrialsDep = Annotated[TrialService, Depends(_trials)]
StreamsDep = Annotated[StreamService, Depends(_streams)]
ProductsDep = Annotated[ProductService, Depends(_products)]
BundlesDep = Annotated[BundleService, Depends(_bundles)]
RecipesDep = Annotated[RecipeService, Depends(_recipes)]
RecipePreviewsDep = Annotated[RecipePreviewService, Depends(_recipe_previews)]
DistributionsDep = Annotated[DistributionService, Depends(_distributions)]
ShadowHeatmapsDep = Annotated[ShadowHeatmapService, Depends(_shadow_heatmaps)]
ExplanationsDep = Annotated[ExplanationService, Depends(_explanations)]
ProposalsDep = Annotated[ProposalService, Depends(_proposals)]
ReplaysDep = Annotated[ReplayService, Depends(_replays)]
ReviewsDep = Annotated[ReviewService, Depends(_reviews)]
ReadinessDep = Annotated[ReadinessCheck, Depends(_readiness)]
ActorDep = Annotated[Actor, Depends(_actor)]
"""Who makes a change, for the service objects that make it."""
SenderDep = Annotated[Actor, Depends(_sender)]
"""Who sends a request to an endpoint that everyone may use."""
AuditDep = Annotated[AuditService, Depends(_audit)]
OutboxDep = Annotated[OutboxService, Depends(_outbox)]
DriftDep = Annotated[DriftService, Depends(_drift)]
SystemDep = Annotated[SystemService, Depends(_system)]
TrainingDep = Annotated[TrainingService, Depends(_training)]
AccessDep = Annotated[AccessControl, Depends(_access)]
PrincipalDep = Annotated[Principal, Depends(_principal)]
ClientDep = Annotated[str, Depends(_client)]
ArchiveSpaceDep = Annotated[ArchiveSpace, Depends(_archive_space)]
BodyMemoryDep = Annotated[MemoryBudget, Depends(_body_memory)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
# For the limits of receiving a request (sizes, timeouts). Everything else is decided by the service objects.
SettingsDep = Annotated[Settings, Depends(_settings)]
