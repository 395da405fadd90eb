"""The guard of retention: a change of a recipe must not remove most of the stored images unnoticed.

If a new policy would remove the files of more inspections than it keeps, of any decision, the change needs the scope
`admin` and the number of these inspections as a confirmation. Only what the policy in force would not remove anyway
counts. The number is an estimate for the moment of the change.

Several milder changes, with sweeps in between, must not remove together what one change must not. Therefore the entry
of a change in the audit log (`retention:change`) states how many inspections it removed more than the policy before it,
per decision. Their sum over `WINDOW` and the new change must not exceed what the new policy keeps, either. A confirmed
change starts a new sum.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from service.recipes.sections import Keep, StorageLimit
from service.schemas.sections import Retention
from service.store.errors import RemovalNotConfirmed
from service.store.models import AuditRow, InspectionRow
from service.store.records import RecipeDraft

WINDOW = timedelta(days=30)
"""Time over which the removals by changes of retention are summed."""
_BYTES = func.coalesce(InspectionRow.artefact_bytes, 0)


class RetentionPolicy(BaseModel):
    """The sections of a recipe that state which images and anomaly maps are kept."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    retention: Retention = {}
    storage: StorageLimit = StorageLimit()


@dataclass(frozen=True)
class Removal:
    """Number of inspections of one decision that lose, and that keep, their files under a policy."""

    removed: int
    kept: int


@dataclass(frozen=True)
class RemovalEffect:
    """What a change of retention does.

    Attributes:
        removed: Number of inspections, per decision, that lose their files and would not under the policy before;
            negative if a milder policy keeps files that were not removed yet.
        is_confirmed: Whether the change needed a confirmation and an admin gave it.
    """

    removed: Mapping[str, int]
    is_confirmed: bool = False


def require_confirmed_removal(session: Session, draft: RecipeDraft, current: Mapping[str, Any] | None) -> RemovalEffect:
    """Check a change of a recipe, and return its effect, which has to be recorded in the audit log.

    Args:
        session: An open session.
        draft: The new recipe.
        current: The recipe in force as it is stored; None if there is none.

    Raises:
        RemovalNotConfirmed: It would remove more than it keeps, alone or together with earlier changes, and that was
            not confirmed by an admin.
    """
    before = _policy(current or {})
    after = RetentionPolicy(retention=draft.recipe.retention, storage=draft.recipe.storage)
    if before == after:
        return RemovalEffect({})
    now = datetime.now(UTC)
    found = estimate_removal(session, draft.product, after, now)
    anyway = estimate_removal(session, draft.product, before, now)
    effect = {name: item.removed - anyway[name].removed for name, item in found.items()}
    earlier = removed_by_changes(session, draft.product, now - WINDOW)
    suspects = {
        name
        for name, item in found.items()
        if effect[name] > 0 and (item.removed > item.kept or effect[name] + earlier[name] > item.kept)
    }
    if not suspects:
        return RemovalEffect(effect)
    removed = sum(item.removed for item in found.values())
    if draft.actor.is_admin and draft.confirm_removal is not None and draft.confirm_removal >= removed:
        return RemovalEffect(effect, is_confirmed=True)
    raise RemovalNotConfirmed(
        draft.product,
        {name: {"removed": item.removed, "kept": item.kept} for name, item in sorted(found.items())},
        {name: earlier[name] for name in sorted(earlier) if earlier[name]},
        is_admin=draft.actor.is_admin,
    )


def removed_by_changes(session: Session, product: str, since: datetime) -> Counter[str]:
    """Return how many inspections of each decision lost their files by changes after the last confirmed one.

    Args:
        session: An open session.
        product: The product.
        since: Only changes from this time on.
    """
    changes = select(AuditRow.after).where(
        AuditRow.product == product, AuditRow.action == "retention:change", AuditRow.created_at >= since
    )
    total: Counter[str] = Counter()
    for text in session.scalars(changes.order_by(AuditRow.id)):
        after = json.loads(text)
        if after.get("confirmed"):
            total.clear()
        else:
            for name, removed in after.get("removed", {}).items():
                # What a milder policy keeps is no credit for later changes.
                total[name] = max(0, total[name] + removed)
    return total


def estimate_removal(session: Session, product: str, policy: RetentionPolicy, now: datetime) -> Mapping[str, Removal]:
    """Return how many inspections of each decision lose their files under a policy, and how many keep them.

    Args:
        session: An open session.
        product: The product.
        policy: The policy.
        now: The time that ages are relative to.
    """
    stored = select(InspectionRow.decision, func.count(), func.sum(_BYTES)).where(*_kept(product))
    totals: dict[str, tuple[int, int]] = {
        decision: (count, int(size or 0))
        for decision, count, size in session.execute(stored.group_by(InspectionRow.decision))
    }
    removed = dict.fromkeys(totals, 0)
    for decision, keep in policy.retention.items():
        if decision in totals:
            removed[decision] = _beyond_limits(session, product, decision, keep, totals[decision][0], now)
    if policy.storage.max_bytes is not None:
        sizes = {
            name: size - _oldest_bytes(session, product, name, removed[name]) for name, (_, size) in totals.items()
        }
        excess = sum(sizes.values()) - policy.storage.max_bytes
        for decision in policy.storage.removal_order:
            if excess > 0 and decision in totals:
                removed[decision] += _covering(session, product, decision, removed[decision], excess)
                excess -= sizes[decision]
    return {name: Removal(removed[name], count - removed[name]) for name, (count, _) in totals.items()}


def _beyond_limits(session: Session, product: str, decision: str, keep: Keep, count: int, now: datetime) -> int:
    """Return the number of inspections beyond either limit. Both limits remove the oldest ones."""
    surplus = 0 if keep.count is None else max(0, count - keep.count)
    if keep.days is None:
        return surplus
    oldest = now - timedelta(days=keep.days)
    aged = select(func.count()).where(*_kept(product, decision), InspectionRow.created_at < oldest)
    return max(surplus, session.scalar(aged) or 0)


def _oldest_bytes(session: Session, product: str, decision: str, count: int) -> int:
    """Return the size of the files of the oldest inspections."""
    if count == 0:
        return 0
    oldest = _by_age(product, decision).limit(count).subquery()
    return int(session.scalar(select(func.sum(oldest.c.size))) or 0)


def _covering(session: Session, product: str, decision: str, skipped: int, excess: int) -> int:
    """Return how many inspections after the oldest `skipped` ones have to be removed until `excess` bytes are free."""
    rest = _by_age(product, decision).offset(skipped).subquery()
    freed_before = (func.sum(rest.c.size).over(order_by=rest.c.id, rows=(None, 0)) - rest.c.size).label("freed")
    each = select(freed_before).subquery()
    return session.scalar(select(func.count()).where(each.c.freed < excess)) or 0


def _by_age(product: str, decision: str) -> Select[str, int]:
    columns = select(InspectionRow.id, _BYTES.label("size"))
    return columns.where(*_kept(product, decision)).order_by(InspectionRow.id)


def _kept(product: str, decision: str | None = None) -> tuple[Any, ...]:
    conditions = (InspectionRow.product == product, InspectionRow.artefacts_removed_at.is_(None))
    return conditions if decision is None else (*conditions, InspectionRow.decision == decision)


def _policy(recipe: Mapping[str, Any]) -> RetentionPolicy:
    """Return the policy of a stored recipe; one without limits if this version cannot read it."""
    try:
        return RetentionPolicy.model_validate(recipe)
    except ValidationError:
        return RetentionPolicy()
