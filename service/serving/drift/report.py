"""The drift of a product in a period, for the shift report."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from service.monitoring.drift.history import History
from service.monitoring.drift.records import KINDS, Limits
from service.schemas.report import DriftState
from service.store.drift.alarms import alarms_between
from service.store.drift.records import AlarmRecord, StreamRecord
from service.store.drift.streams import read_streams
from service.store.inspection_filter import InspectionFilter

MAX_ALARMS = 500
"""Most alarms of a period that are considered, the newest ones."""
_RANKS: dict[str, int] = {kind: number for number, kind in enumerate(KINDS)}


def drift_in_period(
    engine: Engine, which: InspectionFilter, since: datetime, until: datetime, limits: Limits, zone: ZoneInfo
) -> list[DriftState]:
    """Return one state per station and kind of drift: that of the newest alarm in the period, or that of the stream.

    Args:
        engine: The database.
        which: The product, and the stations. With conditions on stations, the streams of the product as a whole are
            left out, because they contain inspections of other stations.
        since: Start of the period.
        until: Its end, exclusive.
        limits: When alarms are raised.
        zone: Time zone of the times that are returned.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    assert which.product is not None
    stations = which.values["station"]
    found: dict[tuple[str, str], DriftState] = {}
    for alarm in alarms_between(engine, which.product, since, until, MAX_ALARMS):
        found.setdefault((alarm.station, alarm.kind), _of_alarm(alarm, until, limits, zone))
    for stream in read_streams(engine, which.product):
        if stream.started_at < until:
            found.setdefault((stream.station, stream.kind), _of_stream(stream, until, limits))
    return [
        found[key]
        for key in sorted(found, key=lambda key: (key[0], _RANKS[key[1]]))
        if stations is None or key[0] in stations
    ]


def _of_alarm(alarm: AlarmRecord, until: datetime, limits: Limits, zone: ZoneInfo) -> DriftState:
    state: Literal["alarm", "acknowledged", "ended"] = "alarm"
    if alarm.acknowledged_at is not None and alarm.acknowledged_at < until:
        state = "acknowledged"
    elif alarm.ended_at is not None and alarm.ended_at < until:
        state = "ended"
    return DriftState(
        kind=alarm.kind,
        station=alarm.station or None,
        state=state,
        began_at=(alarm.onset_at or alarm.raised_at).astimezone(zone),
        evidence=alarm.evidence,
        limit=limits.evidence(alarm.kind),
    )


def _of_stream(stream: StreamRecord, until: datetime, limits: Limits) -> DriftState:
    earlier = [evidence for at, evidence in History.from_stored(stream.history).points if at < until.timestamp()]
    return DriftState(
        kind=stream.kind,
        station=stream.station or None,
        state="normal",
        began_at=None,
        evidence=earlier[-1] if earlier else 0.0,
        limit=limits.evidence(stream.kind),
    )
