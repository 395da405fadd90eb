"""Drift of products: state, history and acknowledgement."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from service.deployment.registry import Registry
from service.monitoring.clock import Clock
from service.monitoring.drift.history import History
from service.monitoring.drift.records import KINDS, Limits
from service.schemas.drift import DriftAlarm, DriftPoint, DriftReport, DriftStream, Suspension
from service.serving.alarms import DriftState as AlarmState
from service.serving.drift.alarms import to_alarm
from service.serving.drift.explanations import explain_stream, remedy
from service.serving.drift.guarantees import Guarantees
from service.serving.drift.monitor import DriftMonitor
from service.store.audit import Actor
from service.store.drift.alarms import acknowledge_alarms, list_alarms
from service.store.drift.records import StreamRecord
from service.store.drift.streams import read_streams
from service.store.records import RecipeRevision
from service.store.store import Store

log = structlog.get_logger(__name__)
MAX_ALARMS = 50


class DriftService:
    """Shows the drift of products and acknowledges alarms. Methods block, except those that say otherwise.

    Args:
        registry: Products and the bundles that serve them.
        store: Streams and alarms.
        guarantees: Which guarantees are suspended.
        monitor: The monitor of this process.
        clock: The time of day.
    """

    def __init__(
        self, registry: Registry, store: Store, guarantees: Guarantees, monitor: DriftMonitor, clock: Clock
    ) -> None:
        self._registry = registry
        self._engine = store.engine
        self._guarantees = guarantees
        self._monitor = monitor
        self._clock = clock

    def suspension(self, revision: RecipeRevision) -> Suspension | None:
        """Return why the guarantee of a recipe in force is suspended; None if it is not. Does not block."""
        return self._guarantees.suspension(revision)

    def alarm_states(self) -> list[AlarmState]:
        """Return the open alarms of all products for the alarm bar. Does not block."""
        return [
            AlarmState(
                product,
                alarm.station or None,
                alarm.kind,
                alarm.onset_at or alarm.raised_at,
                is_suspended=alarm.suspends and active.recipe.recipe.certified,
            )
            for product, active in self._registry.active.items()
            for alarm in self._guarantees.alarms(active.recipe)
        ]

    def states(self, product: str) -> list[DriftStream]:
        """Return the streams of a product, those of the product as a whole first.

        The numbers are a few seconds old; alarms are not.

        Raises:
            UnknownProduct: There is no such product.
            StoreUnavailable: The database cannot be read.
        """
        self._registry.products.look_up(product)
        active = self._registry.active.get(product)
        if active is None:
            return []
        key = self._guarantees.keys.of(active.recipe)
        found = [record for record in read_streams(self._engine, product) if record.reference == key]
        order = sorted(found, key=lambda record: (record.station, KINDS.index(record.kind)))
        return [to_stream(record, self._monitor.limits) for record in order]

    def alarms(self, product: str, limit: int = MAX_ALARMS) -> list[DriftAlarm]:
        """Return the newest alarms of a product, newest first.

        Raises:
            UnknownProduct: There is no such product.
            StoreUnavailable: The database cannot be read.
        """
        self._registry.products.look_up(product)
        return [to_alarm(record) for record in list_alarms(self._engine, product, limit)]

    def report(self, product: str) -> DriftReport:
        """Return the drift of a product.

        Raises:
            UnknownProduct: There is no such product.
            StoreUnavailable: The database cannot be read.
        """
        streams, alarms = self.states(product), self.alarms(product)
        active = self._registry.active.get(product)
        return DriftReport(
            product=product,
            guarantee="none" if active is None else self._guarantees.of(active.recipe),
            suspension=None if active is None else self._guarantees.suspension(active.recipe),
            streams=streams,
            alarms=alarms,
        )

    def acknowledge(self, product: str, actor: Actor, reason: str) -> list[DriftAlarm]:
        """Acknowledge all open alarms of a product. The guarantee holds again, and their streams start anew.

        Args:
            product: Name of the product.
            actor: Who acknowledges.
            reason: What was found and done.

        Returns:
            The acknowledged alarms.

        Raises:
            UnknownProduct: There is no such product.
            NoOpenDriftAlarm: No alarm is open.
            StoreUnavailable: The database cannot be used.
        """
        self._registry.products.look_up(product)
        found = acknowledge_alarms(self._engine, product, actor, reason, self._clock.now())
        self._monitor.refresh()
        self._monitor.wake()
        log.info("drift acknowledged", product=product, author=actor.name, reason=reason, alarms=len(found))
        return [to_alarm(record) for record in found]


def to_stream(record: StreamRecord, limits: Limits) -> DriftStream:
    """Return a stored stream as it is shown."""
    points = History.from_stored(record.history).points
    return DriftStream(
        kind=record.kind,
        station=record.station or None,
        state=record.state,
        evidence=record.evidence,
        limit=limits.evidence(record.kind),
        suspends_at=limits.suspending_evidence,
        direction=record.direction,
        since=record.started_at,
        onset=record.onset_at,
        count=record.count,
        reference=record.source,
        reference_count=record.reference_count,
        explanation=explain_stream(record.kind, record.direction, record.state, record.count),
        remedy=remedy(record.kind) if record.state == "alarm" else None,
        history=[DriftPoint(at=datetime.fromtimestamp(at, UTC), evidence=evidence) for at, evidence in points],
    )
