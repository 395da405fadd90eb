"""What was removed of the records of inspections: per product in a table, and per run in the audit log.

The number of removed records changes in the transaction that removes them. An entry of the service in the audit log
states those that no entry states yet, so that none is missing and none counts twice, also if the process ended in
between. A command has entries of its own, before and after its removal, and the service does not state its records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from service.store.audit import (
    SERVICE,
    Actor,
    AuditEntry,
    AuditFilter,
    AuditRecord,
    append_audit,
    list_audit,
    record_change,
)
from service.store.errors import UnknownInspection
from service.store.ids import created_at
from service.store.models import RecordRemovalRow
from service.store.record_removal.errors import InspectionRemoved
from service.store.record_removal.pieces import Exclusive
from service.store.session import reading, writing

_ROW = RecordRemovalRow


@dataclass(frozen=True)
class RecordRemoval:
    """What was removed of the records of a product.

    Attributes:
        product: The product.
        removed_until: Time of the newest record that was removed.
        removed: Number of records that were removed.
    """

    product: str
    removed_until: datetime
    removed: int


@dataclass(frozen=True)
class StatedRule:
    """A value of the setting `record_days` that the audit log states.

    Attributes:
        text: The value.
        since: When the service saw it first; None if it never saw another one than the default.
    """

    text: str
    since: datetime | None


def record_removals(engine: Engine) -> list[RecordRemoval]:
    """Return what was removed, of each product of which anything was removed.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = select(_ROW.product, _ROW.removed_until, _ROW.removed).order_by(_ROW.product)
    with reading(engine) as session:
        return [RecordRemoval(product, until, removed) for product, until, removed in session.execute(query)]


def records_removed_until(
    engine: Engine, products: Collection[str] | None = None, since: datetime | None = None
) -> datetime | None:
    """Return the time of the newest record that was removed; None if none was.

    Args:
        engine: The database.
        products: Only records of these products; None for all.
        since: Only if the time is not before this one; None for any time.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        until = _removed_until(session, products)
    return None if until is None or (since is not None and until < since) else until


def missing_inspection(session: Session, inspection_id: str) -> UnknownInspection:
    """Return the error for an id that no stored inspection has: it was removed, or it is unknown.

    The same is reported about an inspection that a key may not use, so that its existence is not disclosed.

    Args:
        session: An open session.
        inspection_id: A UUIDv7.
    """
    until = _removed_until(session, None)
    if until is None:
        return UnknownInspection(inspection_id)
    try:
        moment = created_at(UUID(inspection_id))
    except (ValueError, OverflowError, OSError):  # a UUIDv7 may state a time after the year 9999
        return UnknownInspection(inspection_id)
    return UnknownInspection(inspection_id) if moment > until else InspectionRemoved(inspection_id, moment)


def audit_removals(engine: Engine, rule: str, exclusive: Exclusive | None = None) -> int:
    """Append an entry to the audit log about the records that the service removed and that no entry states yet.

    Args:
        engine: The database.
        rule: How long records are kept.
        exclusive: Delays the commits of inspections meanwhile; see `GroupWriter.between_commits`. None for PostgreSQL,
            and in another process.

    Returns:
        Number of these records. Without any, no entry is appended.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    is_unstated = _ROW.removed > _ROW.audited
    change = update(_ROW).execution_options(synchronize_session=False)
    with reading(engine) as session:
        if session.scalar(select(func.count()).select_from(_ROW).where(is_unstated)) == 0:
            return 0
    what = "the removal of records cannot be recorded in the audit log"
    with (exclusive or nullcontext)(), writing(engine, what) as session:
        # It changes nothing, and locks the rows before they are read.
        if not session.execute(change.where(is_unstated).values(audited=_ROW.audited)).rowcount:  # type: ignore[attr-defined]
            return 0
        columns = select(_ROW.product, _ROW.removed_until, (_ROW.removed - _ROW.audited).label("unstated"))
        rows = session.execute(columns.where(is_unstated).order_by(_ROW.product)).all()
        removed = {row.product: row.unstated for row in rows}
        session.execute(change.where(_ROW.product.in_(removed)).values(audited=_ROW.removed))
        until = {row.product: row.removed_until.isoformat() for row in rows}
        after: Mapping[str, Any] = {"record_days": rule, "removed": removed, "removed_until": until}
        append_audit(session, AuditEntry(SERVICE, "records:remove", after=after))
        return sum(removed.values())


def announce_removal(engine: Engine, actor: Actor, rule: str, limits: Mapping[str, datetime]) -> None:
    """Record in the audit log that somebody is about to remove records, so that the author is known in any case.

    Args:
        engine: The database.
        actor: Who removes them.
        rule: How long records are kept.
        limits: The time before which records are removed, by the product.

    Raises:
        StoreUnavailable: It cannot be stored. Nothing must be removed then.
    """
    after = {"record_days": rule, "limits": {product: limit.isoformat() for product, limit in limits.items()}}
    record_change(engine, AuditEntry(actor, "records:remove", after=after))


def state_removal(engine: Engine, actor: Actor, rule: str, removals: Collection[RecordRemoval]) -> None:
    """Record in the audit log what somebody removed with `remove_piece(..., is_stated=True)`.

    Args:
        engine: The database.
        actor: Who removed it.
        rule: How long records are kept.
        removals: What was removed; without any, no entry is appended.

    Raises:
        StoreUnavailable: It cannot be stored.
    """
    if not removals:
        return
    after = {
        "record_days": rule,
        "removed": {each.product: each.removed for each in removals},
        "removed_until": {each.product: each.removed_until.isoformat() for each in removals},
    }
    record_change(engine, AuditEntry(actor, "records:remove", after=after))


def newest_rule(engine: Engine) -> AuditRecord | None:
    """Return the newest entry of the audit log that states the `record_days` of the service; None without one.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    newest = list_audit(engine, AuditFilter(action="records:rule"), limit=1)
    return newest[0] if newest else None


def state_rule(engine: Engine, rule: str, exclusive: Exclusive | None = None) -> StatedRule:
    """Record the value of the setting `record_days` in the audit log, if it is another one than the newest there.

    Args:
        engine: The database.
        rule: The value; empty if records are kept for ever.
        exclusive: As for `audit_removals`.

    Raises:
        StoreUnavailable: The database cannot be used.
    """
    newest = newest_rule(engine)
    before = str(newest.after["record_days"]) if newest else ""
    if before == rule:
        return StatedRule(rule, newest.created_at if newest else None)
    entry = AuditEntry(SERVICE, "records:rule", before={"record_days": before}, after={"record_days": rule})
    with (exclusive or nullcontext)():
        return StatedRule(rule, record_change(engine, entry).created_at)


def _removed_until(session: Session, products: Collection[str] | None) -> datetime | None:
    query = select(func.max(_ROW.removed_until))
    return session.scalar(query if products is None else query.where(_ROW.product.in_(products)))
