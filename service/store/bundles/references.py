"""What needs a bundle of the bundle store, so that it must not be removed.

Most of it is found by an index, and is examined again in the transaction that removes a bundle. The bundles of stored
inspections have no index, which would cost space and time with each inspection: they are read once per run, for all
bundles (`judged_bundles`). In the transaction, only inspections that were stored since are read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal
from uuid import UUID

from sqlalchemy import Engine, Row, exists, func, select, text
from sqlalchemy.orm import Session

from service.store.choices import LINEAGE
from service.store.ids import created_at
from service.store.models import (
    BundleChoiceRow,
    BundleRow,
    InspectionRow,
    ProposalRow,
    RecipeRow,
    ShadowRow,
    TrainingJobRow,
)
from service.store.session import reading

Reason = Literal[
    "active", "previous", "shadow", "none active", "recipe", "deployed", "training", "proposal", "age", "verdict",
    "inspection",
]  # fmt: skip
"""Why a bundle is kept.

| reason      | meaning                                                                                         |
|-------------|-------------------------------------------------------------------------------------------------|
| active      | It serves                                                                                       |
| previous    | A roll-back returns to it, or a start if the active one cannot be served: `LINEAGE` choices     |
| shadow      | It is the shadow deployment                                                                     |
| none active | No bundle of its product was chosen to serve, so that any may be the one that serves by default |
| recipe      | The recipe in force belongs to it                                                               |
| deployed    | It was active or the shadow within the minimum age: inspections with it may still be stored     |
| training    | A training job that has not ended made it                                                       |
| proposal    | Thresholds for it were proposed within the minimum age, and wait for a person                   |
| age         | It was made or stored, also stored again, within the minimum age                                |
| verdict     | A verdict that it gave as a shadow deployment is stored                                         |
| inspection  | A stored inspection was judged with it, which can be replayed and explained only with it        |
"""
KEEPS: Mapping[str, str] = {
    "bundle_choices.bundle_digest": "active, previous, shadow, deployed",
    "recipes.bundle_digest": "recipe",
    "proposals.bundle_digest": "proposal",
    "inspections.bundle_digest": "inspection",
    "inspections.bundle_version": "inspection",
    "shadow_verdicts.bundle_digest": "verdict",
    "shadow_verdicts.bundle_version": "verdict",
    "training_jobs.versions": "training",
}
"""The columns that refer to a bundle and keep it, with the reasons. A test compares them with all columns."""
_AT_ONCE = 500
_NOT_ENDED = ("queued", "running")
_Choices = Sequence[Row[int, str, str, datetime, str | None, int | None]]


@dataclass(frozen=True)
class ListedBundle:
    """A bundle in the list of the bundle store.

    Attributes:
        product: The product.
        version: The version.
        digest: The digest.
        created_at: When it was made.
        stored_at: When it was stored last.
        size_bytes: Size of its files.
    """

    product: str
    version: str
    digest: str
    created_at: datetime
    stored_at: datetime
    size_bytes: int


def listed_bundles(session: Session, product: str | None = None, digest: str | None = None) -> list[ListedBundle]:
    """Return the bundles of the list, by product and from the oldest to the newest.

    Args:
        session: An open session.
        product: Only those of a product; None for all.
        digest: Only this one; None for all.
    """
    row = BundleRow
    query = select(row.product, row.version, row.digest, row.created_at, row.stored_at, row.size_bytes)
    query = query if product is None else query.where(row.product == product)
    query = query if digest is None else query.where(row.digest == digest)
    return [ListedBundle(*found) for found in session.execute(query.order_by(row.product, row.created_at, row.digest))]


def reasons_to_keep(
    session: Session, bundles: Collection[ListedBundle], limit: datetime, product: str | None = None
) -> dict[str, Reason]:
    """Return which bundles are needed, and by what, except by stored inspections.

    Args:
        session: An open session.
        bundles: The bundles.
        limit: Bundles that were made, stored or deployed after this time are kept.
        product: The product of all these bundles; None if there are several.

    Returns:
        The first reason by digest. What is not contained is not needed.
    """
    deployed, serving = _deployed(session, limit, product)
    recipes, proposals = _with_recipe(session, product), _with_proposal(session, limit, product)
    trained = _trained(session, product)
    kept: dict[str, Reason] = {}
    for one in bundles:
        if (reason := deployed.get(one.digest)) is not None:
            kept[one.digest] = reason
        elif one.product not in serving:
            kept[one.digest] = "none active"
        elif one.digest in recipes:
            kept[one.digest] = "recipe"
        elif (one.product, one.version) in trained:
            kept[one.digest] = "training"
        elif one.digest in proposals:
            kept[one.digest] = "proposal"
        elif max(one.created_at, one.stored_at) >= limit:
            kept[one.digest] = "age"
    rest = [one.digest for one in bundles if one.digest not in kept]
    kept.update(dict.fromkeys(_with_verdict(session, rest), "verdict"))
    return kept


def judged_bundles(engine: Engine, product: str | None = None) -> set[str]:
    """Return the digests of the bundles with which stored inspections were judged. It reads all inspections.

    Args:
        engine: The database.
        product: Only inspections of a product; None for all.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = select(InspectionRow.bundle_digest).distinct()
    with reading(engine) as session:
        if engine.dialect.name == "postgresql":
            session.execute(text("SET LOCAL statement_timeout = 0"))  # reading many millions of rows takes minutes
        return set(session.scalars(query if product is None else query.where(InspectionRow.product == product)))


def newest_inspection(engine: Engine) -> str:
    """Return the id of the newest inspection; an empty text if there is none.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return session.scalar(select(func.max(InspectionRow.id))) or ""


def is_judged_since(session: Session, bundle: ListedBundle, newest: str) -> bool:
    """Return whether an inspection was judged with a bundle after a certain one.

    Args:
        session: An open session.
        bundle: The bundle.
        newest: Id of that inspection; see `newest_inspection`.
    """
    row = InspectionRow
    later = select(row.id).where(row.product == bundle.product, row.id > newest, row.bundle_digest == bundle.digest)
    return session.scalar(later.limit(1)) is not None


def _deployed(session: Session, limit: datetime, product: str | None) -> tuple[dict[str, Reason], set[str]]:
    """Return the bundles that are deployed or were a short time ago, and the products that have an active one."""
    row = BundleChoiceRow
    query = select(row.id, row.product, row.role, row.created_at, row.bundle_digest, row.returns_to).order_by(row.id)
    choices: _Choices = session.execute(query if product is None else query.where(row.product == product)).all()
    histories: dict[tuple[str, str], list[Row[int, str, str, datetime, str | None, int | None]]] = {}
    for choice in choices:
        histories.setdefault((choice.product, choice.role), []).append(choice)
    by_id = {choice.id: choice for choice in choices}
    kept: dict[str, Reason] = {}
    serving: set[str] = set()
    for (name, role), history in histories.items():
        for choice, following in pairwise(history):
            if choice.bundle_digest is not None and following.created_at >= limit:
                kept.setdefault(choice.bundle_digest, "deployed")
        newest = history[-1]
        if newest.bundle_digest is None:
            continue
        if role != "active":
            kept[newest.bundle_digest] = "shadow"
            continue
        serving.add(name)
        lineage = newest
        for _ in range(LINEAGE - 1):
            if lineage.returns_to not in by_id:
                break
            lineage = by_id[lineage.returns_to]
            if lineage.bundle_digest is not None:
                kept[lineage.bundle_digest] = "previous"
        kept[newest.bundle_digest] = "active"
    return kept, serving


def _with_recipe(session: Session, product: str | None) -> set[str]:
    row = RecipeRow
    newest = select(row.product, func.max(row.revision).label("revision")).group_by(row.product).subquery()
    query = select(row.bundle_digest).join(
        newest, (row.product == newest.c.product) & (row.revision == newest.c.revision)
    )
    return set(session.scalars(query if product is None else query.where(row.product == product)))


def _with_proposal(session: Session, limit: datetime, product: str | None) -> set[str]:
    row = ProposalRow
    query = select(row.id, row.bundle_digest)
    rows = session.execute(query if product is None else query.where(row.product == product))
    return {digest for proposal, digest in rows if created_at(UUID(proposal)) >= limit}


def _trained(session: Session, product: str | None) -> set[tuple[str, str]]:
    row = TrainingJobRow
    query = select(row.product, row.versions).where(row.state.in_(_NOT_ENDED))
    jobs = session.execute(query if product is None else query.where(row.product == product))
    return {(name, made["version"]) for name, versions in jobs for made in versions}


def _with_verdict(session: Session, digests: Sequence[str]) -> set[str]:
    # By the version, of which there is an index: two bundles with the same one are kept together.
    has_verdict = exists().where(ShadowRow.bundle_version == BundleRow.version)
    found: set[str] = set()
    for start in range(0, len(digests), _AT_ONCE):  # databases limit the number of values in a statement
        piece = digests[start : start + _AT_ONCE]
        found.update(session.scalars(select(BundleRow.digest).where(BundleRow.digest.in_(piece), has_verdict)))
    return found
