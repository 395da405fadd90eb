"""Map the state of the service to the schemas of the API."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from service.api.http.server_paths import hide_paths
from service.api.mapping import to_bundle_problem, to_bundle_reference, to_product
from service.api.outbox_mapping import to_sink_status
from service.integrations.outbox import OutboxService
from service.monitoring.recent import RecentCounts
from service.schemas.outbox import SinkStatus
from service.schemas.product import Readiness
from service.schemas.system import (
    DiskFacts,
    DurationFacts,
    LoggedFacts,
    MemoryFacts,
    ParityFacts,
    QueueFacts,
    RecentFacts,
    RefusalFacts,
    ServedProduct,
    SettingFacts,
    SystemState,
)
from service.serving.products import ProductState
from service.serving.system import SystemService
from service.store.errors import StoreUnavailable
from service.version import VERSION


def read_system(system: SystemService, outbox: OutboxService) -> SystemState:
    """Return the state of the service. Blocks while the state of the sinks is read from the database."""
    report = system.report()
    readiness = report.readiness
    return SystemState(
        readiness=Readiness(
            status=readiness.status,
            reasons=list(map(hide_paths, readiness.reasons)),
            products=list(readiness.products),
            broken_bundles=[to_bundle_problem(broken) for broken in readiness.broken_bundles],
            version=VERSION,
        ),
        started_at=report.started_at,
        uptime_s=report.uptime_s,
        products=[_to_served(state, report.recent.products.get(state.name)) for state in report.products],
        queue=QueueFacts(depth=report.queue_depth, limit=report.queue_limit, shed=dict(report.recent.shed)),
        window_s=report.recent.window_s,
        recent=_to_recent(report.recent.total),
        memory=MemoryFacts(**asdict(report.memory)),
        disks=[DiskFacts(**asdict(disk)) for disk in report.disks],
        sinks=_sinks(outbox),
        errors=[RefusalFacts(**_without_paths(asdict(refusal))) for refusal in report.errors],
        error_totals=report.error_totals,
        log=[
            LoggedFacts(at=one.at, level=one.level, event=hide_paths(one.event), details=hide_paths(one.details))
            for one in report.log
        ],
        settings=[SettingFacts(name=one.name, value=hide_paths(one.value)) for one in report.settings],
        versions=report.versions,
    )


def _sinks(outbox: OutboxService) -> list[SinkStatus] | None:
    try:
        return [to_sink_status(sink) for sink in outbox.summary()]
    except StoreUnavailable:
        return None


def _without_paths(facts: dict[str, Any]) -> dict[str, Any]:
    reason = facts["reason"]
    return facts | {"reason": None if reason is None else hide_paths(reason)}


def _to_served(state: ProductState, recent: RecentCounts | None) -> ServedProduct:
    active, shadow = state.active, state.shadow
    parity = None
    if active is not None:
        certificate, passed = active.bundle.manifest.parity, active.served.passed
        parity = ParityFacts(
            measured=certificate.measured,
            measured_on=certificate.provider,
            self_test=None if passed is None else passed.difference,
            tolerance=certificate.tolerance,
        )
    return ServedProduct(
        product=state.name,
        status=to_product(state).status,
        provider=None if active is None else active.served.provider,
        bundle=None if active is None else to_bundle_reference(active.bundle),
        recipe_revision=None if active is None else active.recipe.revision,
        shadow=None if shadow is None else to_bundle_reference(shadow.bundle),
        parity=parity,
        problems=[to_bundle_problem(broken) for broken in state.broken],
        recent=None if recent is None else _to_recent(recent),
    )


def _to_recent(counts: RecentCounts) -> RecentFacts:
    durations = counts.durations
    return RecentFacts(
        inspections=sum(counts.decisions.values()),
        decisions=dict(counts.decisions),  # type: ignore[arg-type]  # checked by pydantic
        per_second=counts.per_second,
        durations=DurationFacts(
            p50_ms=_milliseconds(durations.p50_s),
            p95_ms=_milliseconds(durations.p95_s),
            p99_ms=_milliseconds(durations.p99_s),
            longest_ms=_milliseconds(durations.longest_s),
        ),
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
