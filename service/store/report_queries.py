"""Counts for the shift report, computed by the database: reasons of invalid images, scores and processing times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from sqlalchemy import ColumnElement, Engine, Integer, Text, case, cast, func, select

from service.schemas.inspection import VerdictName
from service.schemas.sections import InvalidReason
from service.store.inspection_filter import InspectionFilter, branches
from service.store.models import InspectionRow
from service.store.session import reading
from service.store.tallies import total_time_ms

SCORE_BINS_PER_UNIT = 25
"""Number of bins of scores between 0 and the fail threshold."""
SCORE_BINS = 75
"""Number of bins of scores. The last one contains all greater scores as well."""
_TABLE = InspectionRow.__table__


@dataclass(frozen=True)
class ScoreCount:
    """Number of inspections with the same bundle and thresholds, and scores in the same bin.

    Attributes:
        bin: Index of the bin, 0 to `SCORE_BINS` - 1; None if the fail threshold is not positive.
    """

    bundle_version: str
    fail_threshold: float
    review_threshold: float
    bin: int | None
    number: int


def count_reasons(engine: Engine, which: InspectionFilter) -> Counter[InvalidReason]:
    """Count the images that the quality check rejected, by reason. An image can have several reasons.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    # Within JSON, only a string that equals the reason has quotes on both sides.
    objections = cast(_TABLE.c.objections, Text)
    columns = [func.sum(case((objections.like(f'%"{reason.value}"%'), 1), else_=0)) for reason in InvalidReason]
    found: Counter[InvalidReason] = Counter()
    for row in _rows(engine, replace(which, decisions=("invalid",)), (), columns):
        for reason, number in zip(InvalidReason, row, strict=True):
            found[reason] += number or 0
    return +found


def count_scores(engine: Engine, which: InspectionFilter) -> Iterator[ScoreCount]:
    """Count judged inspections by bundle, thresholds and score. A bin may be returned several times; add the numbers.

    The width of a bin is the fail threshold divided by `SCORE_BINS_PER_UNIT`.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    fail = _TABLE.c.fail_threshold
    position = _TABLE.c.score * SCORE_BINS_PER_UNIT / fail
    place = case(
        (fail <= 0, None),
        (position < 0, 0),
        (position >= SCORE_BINS, SCORE_BINS - 1),
        else_=_whole(engine.dialect.name, position),
    )
    # The bin first: SQLite sorts by the groups, and compares the others only where it is equal.
    groups = (place, fail, _TABLE.c.review_threshold, _TABLE.c.bundle_version)
    for found, fail_threshold, review_threshold, version, number in _rows(
        engine, _judged(which), groups, [func.count()]
    ):
        yield ScoreCount(version, fail_threshold, review_threshold, found, number)


def count_times(engine: Engine, which: InspectionFilter) -> Counter[int]:
    """Count judged inspections by processing time, rounded to tenths of a millisecond.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    # The expression is used once: SQLite would parse the JSON again for every use.
    rounded = _whole(engine.dialect.name, total_time_ms() * 10 + 0.5)
    found: Counter[int] = Counter()
    for tenths_ms, number in _rows(engine, _judged(which), [rounded], [func.count()]):
        found[tenths_ms] += number
    return found


def _judged(which: InspectionFilter) -> InspectionFilter:
    decisions = which.decisions or get_args(VerdictName)
    return replace(which, decisions=tuple(name for name in decisions if name != "invalid"))


def _whole(dialect: str, value: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the whole part of a number that is not negative. SQLite has `floor` only if it was built with it."""
    return cast(value if dialect == "sqlite" else func.floor(value), Integer)


def _rows(
    engine: Engine,
    which: InspectionFilter,
    groups: Sequence[ColumnElement[Any]],
    values: Sequence[ColumnElement[Any]],
) -> Iterator[Any]:
    """Yield one row per group and branch of the conditions: what it is grouped by, then the values."""
    # Grouped by name: PostgreSQL does not recognise a repeated expression with bound values as the same one.
    named = {f"group_{number}": group for number, group in enumerate(groups)}
    columns = [group.label(name) for name, group in named.items()]
    with reading(engine) as session:
        for branch in branches(which, engine.dialect.name):
            yield from session.execute(select(*columns, *values).where(*branch).group_by(*named))
