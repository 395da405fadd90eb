"""The stored streams and the position up to which they are computed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.orm import Session

from service.monitoring.drift.streams import Stream
from service.schemas.drift import DriftKind
from service.store.drift.records import ChangedStream, StreamRecord
from service.store.models import DriftAlarmRow, DriftPositionRow, DriftStreamRow, InspectionRow
from service.store.session import reading, retry_conflicts, writing

_POSITION = 1
_START = "00000000-0000-7000-8000-000000000000"
_CORE = {"synchronize_session": False}
_NAMES = tuple(field.name for field in fields(StreamRecord))


def read_position(engine: Engine) -> str:
    """Return the id of the newest inspection that is counted.

    Without a position, monitoring begins now: the newest stored inspection is the position.

    Raises:
        StoreUnavailable: The database cannot be used.
    """

    def read() -> str:
        with writing(engine, "the position of drift monitoring cannot be stored") as session:
            found: str | None = session.scalar(select(DriftPositionRow.inspection_id))
            if found is None:
                found = session.scalar(select(func.max(InspectionRow.id))) or _START
                session.add(DriftPositionRow(id=_POSITION, inspection_id=found))
            return found

    # Several processes may start at the same time.
    return retry_conflicts(read)


def read_streams(engine: Engine, product: str | None = None) -> list[StreamRecord]:
    """Return the stored streams of a product or of all products, those of a product as a whole first.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row = DriftStreamRow
    query = select(row).order_by(row.product, row.station, row.kind)
    if product is not None:
        query = query.where(row.product == product)
    with reading(engine) as session:
        return [StreamRecord(**{name: getattr(found, name) for name in _NAMES}) for found in session.scalars(query)]


def read_evidence(engine: Engine) -> list[tuple[str, str, DriftKind, float]]:
    """Return product, station, kind and evidence of every stream.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row = DriftStreamRow
    with reading(engine) as session:
        found = session.execute(select(row.product, row.station, row.kind, row.evidence))
        return [(product, station, kind, evidence) for product, station, kind, evidence in found]  # type: ignore[misc]


class DriftWriter:
    """Stores what the monitor computed.

    Args:
        engine: The database.
        exclusive: Delays the commits of inspections meanwhile; see `GroupWriter.between_commits`. None for PostgreSQL.
    """

    def __init__(self, engine: Engine, exclusive: Callable[[], AbstractContextManager[None]] | None) -> None:
        self._engine = engine
        self._exclusive = exclusive or nullcontext

    def write(
        self, before: str, position: str, changed: Sequence[ChangedStream], ended: Collection[str], moment: datetime
    ) -> bool:
        """Store a new position and everything that follows from the inspections up to it, in one transaction.

        Args:
            before: The position that was read or written last.
            position: The new position.
            changed: The streams that changed. New alarms get their ids.
            ended: Products whose reference was replaced: their alarms end and their streams are removed first.
            moment: The present time.

        Returns:
            False if another process has written since; then nothing is stored.

        Raises:
            StoreUnavailable: Nothing was stored.
        """
        raised: list[tuple[Stream, DriftAlarmRow]] = []
        with self._exclusive(), writing(self._engine, "the state of drift monitoring cannot be stored") as session:
            moved = session.execute(
                update(DriftPositionRow)
                .where(DriftPositionRow.inspection_id == before)
                .values(inspection_id=position)
                .execution_options(**_CORE)
            )
            if moved.rowcount != 1:  # type: ignore[attr-defined]  # an update has it
                return False
            for product in ended:
                _end(session, product, moment)
            for item in changed:
                if item.raises:
                    raised.append((item.stream, _raise(session, item, moment)))
            session.flush()
            names = {id(stream): row.id for stream, row in raised}
            for item in changed:
                _store(session, item, names.get(id(item.stream), item.stream.alarm_id))
        for stream, _ in raised:
            stream.alarm_id = names[id(stream)]
        for item in changed:
            item.stream.has_new_reference = False
        return True


def _end(session: Session, product: str, moment: datetime) -> None:
    """End the open alarms of a product and remove its streams."""
    alarm = DriftAlarmRow
    session.execute(
        update(alarm)
        .where(alarm.product == product, alarm.acknowledged_at.is_(None), alarm.ended_at.is_(None))
        .values(ended_at=moment)
        .execution_options(**_CORE)
    )
    session.execute(delete(DriftStreamRow).where(DriftStreamRow.product == product).execution_options(**_CORE))


def _raise(session: Session, item: ChangedStream, moment: datetime) -> DriftAlarmRow:
    stream = item.stream
    row = DriftAlarmRow(
        product=item.product,
        station=stream.station or "",
        kind=stream.kind,
        direction=stream.direction,
        reference=stream.reference,
        recipe_revision=item.recipe_revision,
        raised_at=moment,
        onset_at=stream.onset,
        evidence=stream.evidence,
        suspends=item.suspends,
    )
    session.add(row)
    return row


def _store(session: Session, item: ChangedStream, alarm_id: int | None) -> None:
    stream, row = item.stream, DriftStreamRow
    values: dict[str, Any] = {
        "reference": stream.reference,
        "recipe_revision": item.recipe_revision,
        "source": stream.source,
        "reference_count": stream.reference_count,
        "state": stream.state if alarm_id is None else "alarm",
        "started_at": stream.started_at,
        "count": stream.count,
        "evidence": stream.evidence,
        "direction": stream.direction,
        "onset_at": stream.onset,
        "alarm_id": alarm_id,
        "progress": stream.to_stored(),
        "history": stream.history.to_stored(),
    }
    if item.has_new_reference:
        values["reference_values"] = stream.reference_to_stored()
    is_same = (row.product == item.product, row.station == (stream.station or ""), row.kind == stream.kind)
    changed = session.execute(update(row).where(*is_same).values(values).execution_options(**_CORE))
    if changed.rowcount == 0:  # type: ignore[attr-defined]  # an update has it
        session.add(
            DriftStreamRow(
                product=item.product,
                station=stream.station or "",
                kind=stream.kind,
                **values | {"reference_values": stream.reference_to_stored()},
            )
        )
    if item.suspends and alarm_id is not None:
        alarm = DriftAlarmRow
        session.execute(
            update(alarm).where(alarm.id == alarm_id, ~alarm.suspends).values(suspends=True).execution_options(**_CORE)
        )
