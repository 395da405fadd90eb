"""Queries for stored inspections, and their summaries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self, get_args
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.schemas.common import LABEL_PATTERN, Label, RecordsRemovedUntil, ResponseModel, UtcDatetime
from service.schemas.inspection import InspectionLabel
from service.schemas.sections import DecisionName
from service.schemas.violations import violated

MAX_IDS = 200

GroupBy = Literal["hour", "shift", "day", "station", "lot", "product"]
ExportFormat = Literal["csv", "parquet"]


def split_decisions(text: str) -> tuple[DecisionName, ...]:
    """Return the decisions of a comma-separated list.

    Raises:
        ValueError: It contains another text.
    """
    found = tuple(name for part in text.split(",") for name in get_args(DecisionName) if name == part)
    if len(found) != text.count(",") + 1:
        raise violated("unknown_decision")
    return found


def split_ids(text: str) -> tuple[UUID, ...]:
    """Return the ids of a comma-separated list.

    Raises:
        ValueError: It contains something else than UUIDs, or too many.
    """
    parts = text.split(",")
    if len(parts) > MAX_IDS:
        raise violated("too_many_ids", count=len(parts), maximum=MAX_IDS)
    try:
        return tuple(UUID(part) for part in parts)
    except ValueError as error:
        raise violated("not_ids") from error


def _check_decisions(text: str) -> str:
    split_decisions(text)
    return text


def _check_ids(text: str) -> str:
    split_ids(text)
    return text


class InspectionQuery(BaseModel):
    """Conditions on stored inspections. All that are given must hold."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    product: Label | None = Field(default=None, description="Only inspections of this product.")
    station: Label | None = Field(default=None, description="Only inspections at this station.")
    lot: Label | None = Field(default=None, description="Only inspections of this lot.")
    part_id: Label | None = Field(default=None, description="Only inspections of this part.")
    decision: Annotated[str, StringConstraints(pattern=LABEL_PATTERN), AfterValidator(_check_decisions)] | None = Field(
        default=None,
        description="Only inspections with this decision: `pass`, `review`, `fail` or `invalid`, or several of them "
        "separated by commas.",
        examples=["review,fail"],
    )
    since: UtcDatetime | None = Field(
        default=None,
        description="Only inspections at or after this time, with time zone (`created_at`).",
        examples=["2026-03-01T06:00:00+01:00"],
    )
    until: UtcDatetime | None = Field(
        default=None, description="Only inspections before this time, with time zone (`created_at`)."
    )
    min_score: float | None = Field(
        default=None, description="Only inspections with at least this score. Invalid images have no score."
    )
    max_score: float | None = Field(
        default=None, description="Only inspections with at most this score. Invalid images have no score."
    )
    label: InspectionLabel | None = Field(default=None, description="Only inspections with this label by reviews.")
    ids: Annotated[str, StringConstraints(pattern=LABEL_PATTERN), AfterValidator(_check_ids)] | None = Field(
        default=None,
        description=f"Only inspections with these ids, separated by commas; at most {MAX_IDS}. Ids that do not exist "
        "are ignored.",
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise violated("period_order")
        if self.min_score is not None and self.max_score is not None and self.min_score > self.max_score:
            raise violated("score_order")
        return self


class EventQuery(BaseModel):
    """Conditions on the inspections of a stream of events, and where it begins."""

    model_config = ConfigDict(extra="forbid")

    product: Label | None = Field(default=None, description="Only inspections of this product.")
    station: Label | None = Field(default=None, description="Only inspections at this station.")
    decision: Annotated[str, StringConstraints(pattern=LABEL_PATTERN), AfterValidator(_check_decisions)] | None = Field(
        default=None,
        description="Only inspections with this decision: `pass`, `review`, `fail` or `invalid`, or several of them "
        "separated by commas.",
        examples=["review,fail"],
    )
    last_event_id: str | None = Field(
        default=None,
        max_length=4096,
        pattern=LABEL_PATTERN,
        description="Begin behind this cursor: the last `id` that the stream sent, or the id of an inspection. For "
        "clients that cannot send the header `Last-Event-ID`.",
    )


class ListQuery(InspectionQuery):
    """Conditions on stored inspections, and the page of the list."""

    cursor: UUID | None = Field(default=None, description="`next_cursor` of the previous page.")
    limit: int = Field(default=50, ge=1, le=500, description="Maximum number of inspections on the page.")


class SummaryQuery(InspectionQuery):
    """Conditions on stored inspections, and their groups."""

    by: GroupBy = Field(default="day", description="What inspections are grouped by.")
    time_zone: str = Field(
        default="UTC",
        max_length=64,
        pattern=LABEL_PATTERN,
        description="IANA name of the time zone of hours, shifts and days.",
        examples=["Europe/Berlin"],
    )
    shifts: str = Field(
        default="06:00,14:00,22:00",
        max_length=200,
        pattern=LABEL_PATTERN,
        description="Local times at which shifts begin, ascending and comma-separated; for `by=shift`.",
    )


class ExportQuery(InspectionQuery):
    """Conditions on stored inspections, and the format of the file."""

    format: ExportFormat = Field(default="csv", description="Format of the file.")


class ShiftQuery(BaseModel):
    """Conditions on the inspections of the current shift."""

    model_config = ConfigDict(extra="forbid")

    product: Label | None = Field(default=None, description="Only inspections of this product.")
    station: Label | None = Field(default=None, description="Only inspections at this station.")


class ProcessingTimes(ResponseModel):
    """Times of inspections in milliseconds: the sum of all stages from decoding to the decision. Null without one."""

    min: float | None
    mean: float | None
    max: float | None


class CurrentShift(ResponseModel):
    """The counters of the current shift."""

    start: datetime = Field(description="When the shift began, in the time zone of the service.")
    end: datetime = Field(description="When the shift ends.")
    total: int = Field(description="Number of inspections, invalid ones included.")
    counts: dict[DecisionName, int] = Field(description="Number of inspections by decision.")
    refused: int = Field(
        description="Images of all products that this process refused for lack of capacity, since the shift or the "
        "process began."
    )
    processing_ms: ProcessingTimes


class DecisionCounts(ResponseModel):
    """Number of inspections by decision, and yields. A yield without inspections to relate to is null."""

    total: int
    counts: dict[DecisionName, int] = Field(description="Number of inspections by decision.")
    yield_of_judged: float | None = Field(
        description="Share of `pass` among the judged images: pass / (pass + review + fail)."
    )
    yield_of_decided: float | None = Field(
        description="Share of `pass` among the images that need no review: pass / (pass + fail)."
    )
    yield_of_all: float | None = Field(
        description="Share of `pass` among all images, including invalid ones: pass / total."
    )


class SummaryGroup(DecisionCounts):
    """The inspections of an hour, a shift, a day, a station, a lot or a product."""

    name: str | None = Field(
        description="The station, lot or product; null for inspections without it, and for hours, shifts and days."
    )
    start: datetime | None = Field(description="Start of the hour, shift or day, in the requested time zone.")
    end: datetime | None = Field(description="End of the hour, shift or day, exclusive.")


class InspectionSummary(ResponseModel):
    """Counts and yields of stored inspections."""

    by: GroupBy
    time_zone: str
    since: datetime = Field(description="Start of the period, inclusive.")
    until: datetime = Field(description="End of the period, exclusive.")
    total: DecisionCounts
    groups: list[SummaryGroup] = Field(
        description="Periods in the order of time, including those without inspections; names in alphabetical order."
    )
    records_removed_until: RecordsRemovedUntil = None
