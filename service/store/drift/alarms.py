"""Alarms of drift: those that are open, their history, and their acknowledgement."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime

from sqlalchemy import Engine, or_, select, update
from sqlalchemy.orm import Session

from service.store.audit import Actor, AuditEntry, append_audit
from service.store.drift.records import AlarmRecord
from service.store.errors import NoOpenDriftAlarm
from service.store.models import DriftAlarmRow
from service.store.session import reading, writing

_NAMES = tuple(field.name for field in fields(AlarmRecord))


def open_alarms(engine: Engine, product: str | None = None) -> list[AlarmRecord]:
    """Return the open alarms of a product or of all products, oldest first.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return _open_alarms(session, product)


def list_alarms(engine: Engine, product: str, limit: int) -> list[AlarmRecord]:
    """Return the newest alarms of a product, newest first.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = select(DriftAlarmRow).where(DriftAlarmRow.product == product).order_by(DriftAlarmRow.id.desc())
    with reading(engine) as session:
        return [_alarm(row) for row in session.scalars(query.limit(limit))]


def alarms_between(engine: Engine, product: str, since: datetime, until: datetime, limit: int) -> list[AlarmRecord]:
    """Return the newest alarms of a product that were open at some time of a period, newest first.

    Args:
        engine: The database.
        product: The product.
        since: Start of the period.
        until: Its end, exclusive.
        limit: Maximum number of alarms.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row = DriftAlarmRow
    query = select(row).where(
        row.product == product,
        row.raised_at < until,
        or_(row.acknowledged_at.is_(None), row.acknowledged_at >= since),
        or_(row.ended_at.is_(None), row.ended_at >= since),
    )
    with reading(engine) as session:
        return [_alarm(found) for found in session.scalars(query.order_by(row.id.desc()).limit(limit))]


def acknowledge_alarms(engine: Engine, product: str, actor: Actor, reason: str, moment: datetime) -> list[AlarmRecord]:
    """Acknowledge all open alarms of a product.

    Args:
        engine: The database.
        product: The product.
        actor: Who acknowledges.
        reason: Why.
        moment: The present time.

    Raises:
        NoOpenDriftAlarm: There is none.
        StoreUnavailable: Nothing was stored.
    """
    row = DriftAlarmRow
    with writing(engine, "the acknowledgement cannot be stored") as session:
        found = _open_alarms(session, product)
        ids = [alarm.id for alarm in found]
        # Another request may acknowledge them at the same time.
        changed = session.scalars(
            update(row)
            .where(row.id.in_(ids), row.acknowledged_at.is_(None), row.ended_at.is_(None))
            .values(acknowledged_at=moment, acknowledged_by=actor.name, reason=reason)
            .returning(row.id)
            .execution_options(synchronize_session=False)
        ).all()
        if not changed:
            raise NoOpenDriftAlarm(product)
        acknowledged = [alarm for alarm in found if alarm.id in changed]
        alarms = [
            {"id": alarm.id, "kind": alarm.kind, "station": alarm.station or None, "suspends": alarm.suspends}
            for alarm in acknowledged
        ]
        append_audit(
            session, AuditEntry(actor, "drift:acknowledge", product=product, before={"alarms": alarms}, note=reason)
        )
        return acknowledged


def _open_alarms(session: Session, product: str | None) -> list[AlarmRecord]:
    row = DriftAlarmRow
    query = select(row).where(row.acknowledged_at.is_(None), row.ended_at.is_(None)).order_by(row.id)
    if product is not None:
        query = query.where(row.product == product)
    return [_alarm(found) for found in session.scalars(query)]


def _alarm(row: DriftAlarmRow) -> AlarmRecord:
    return AlarmRecord(**{name: getattr(row, name) for name in _NAMES})
