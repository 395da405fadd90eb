"""What other processes changed, read in one query: newest recipe revisions, and the newest entry of the audit log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, Executable, bindparam, func, literal, select, union_all
from sqlalchemy.sql import Select

from service.store.audit import AuditAction
from service.store.models import AuditRow, RecipeRow
from service.store.session import querying

_RECIPES, _AUDIT = RecipeRow.__table__, AuditRow.__table__
_NEWEST = select(_RECIPES.c.product, func.max(_RECIPES.c.revision)).group_by(_RECIPES.c.product)
# No product has an empty name.
_HEAD: Select[str, int] = select(literal(""), func.coalesce(func.max(_AUDIT.c.id), 0))
# Core statements that are built once, because they run for each inspection.
_OF_ALL: Executable = union_all(_NEWEST, _HEAD)
_OF_ONE: Executable = union_all(_NEWEST.where(_RECIPES.c.product == bindparam("product")), _HEAD)
_OF_SOME: Executable = union_all(_NEWEST.where(_RECIPES.c.product.in_(bindparam("products", expanding=True))), _HEAD)
# A list of more products in the statement is slower than reading all.
_MOST_NAMED = 32


@dataclass(frozen=True)
class Revisions:
    """The state of a shared database.

    Attributes:
        recipes: Number of the revision in force by product.
        audit: Number of the newest entry of the audit log. Entries are numbered in the order in which they are
            committed, and every change of keys and accounts has one, so an equal number means that none was changed.
    """

    recipes: Mapping[str, int]
    audit: int


def read_revisions(engine: Engine, products: Collection[str] | None = None) -> Revisions:
    """Read the state of the database.

    Args:
        engine: The database.
        products: The products whose revisions are needed; None for all. Others may be in the result, too.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with querying(engine) as connection:
        if products is None or len(products) > _MOST_NAMED:
            rows = connection.execute(_OF_ALL)
        elif len(products) == 1:
            rows = connection.execute(_OF_ONE, {"product": next(iter(products))})
        else:
            rows = connection.execute(_OF_SOME, {"products": sorted(products)})
        recipes: dict[str, int] = {row[0]: row[1] for row in rows}
    return Revisions(recipes, recipes.pop(""))


def newest_audit_entry(engine: Engine) -> int:
    """Return the number of the newest entry of the audit log; 0 without one.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with querying(engine) as connection:
        return connection.execute(_HEAD).one()[1]


def changed_objects(
    engine: Engine, actions: Collection[AuditAction], after: int, until: int
) -> Sequence[tuple[AuditAction, str]]:
    """Return action and object of entries of the audit log, in their order.

    Args:
        engine: The database.
        actions: The kinds of changes.
        after: Number of the last entry that is left out.
        until: Number of the last entry.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = select(_AUDIT.c.action, func.coalesce(_AUDIT.c.object, "")).where(
        _AUDIT.c.id > after, _AUDIT.c.id <= until, _AUDIT.c.action.in_(actions)
    )
    with querying(engine) as connection:
        return connection.execute(query.order_by(_AUDIT.c.id)).all()
