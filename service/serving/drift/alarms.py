"""Drift alarms as responses and reports show them."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

from service.schemas.drift import DriftAlarm
from service.store.drift.records import AlarmRecord


def to_alarm(record: AlarmRecord, zone: tzinfo = UTC) -> DriftAlarm:
    """Return a stored alarm as it is shown.

    Args:
        record: The alarm.
        zone: Time zone of its times.
    """

    def local(moment: datetime | None) -> datetime | None:
        return None if moment is None else moment.astimezone(zone)

    return DriftAlarm(
        id=record.id,
        product=record.product,
        station=record.station or None,
        kind=record.kind,
        direction=record.direction,
        since=record.raised_at.astimezone(zone),
        onset=local(record.onset_at),
        evidence=record.evidence,
        suspends=record.suspends,
        recipe_revision=record.recipe_revision,
        acknowledged_at=local(record.acknowledged_at),
        acknowledged_by=record.acknowledged_by,
        reason=record.reason,
        ended_at=local(record.ended_at),
    )
