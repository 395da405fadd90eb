"""The shift report of a product: its query and its content."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.schemas.common import LABEL_PATTERN, Label, RecordsRemovedUntil, ResponseModel, UtcDatetime
from service.schemas.drift import DriftAlarm
from service.schemas.recipe import RecipeDifference
from service.schemas.records import DecisionCounts, SummaryGroup
from service.schemas.review import PairAgreement, RateEstimate
from service.schemas.sections import InvalidReason
from service.schemas.violations import violated

ReportFormat = Literal["html", "csv", "json"]
ReportLanguage = Literal["en", "de"]


class ReportQuery(BaseModel):
    """The period of a report, its conditions and its form."""

    model_config = ConfigDict(extra="forbid")

    since: UtcDatetime | None = Field(
        default=None,
        description="Start of the period, inclusive, with time zone; by default 24 hours before its end.",
        examples=["2026-03-01T06:00:00+01:00"],
    )
    until: UtcDatetime | None = Field(
        default=None, description="End of the period, exclusive, with time zone; by default now."
    )
    station: Label | None = Field(default=None, description="Only inspections at this station.")
    time_zone: str | None = Field(
        default=None,
        max_length=64,
        pattern=LABEL_PATTERN,
        description="IANA name of the time zone of the times in the report, and of its hours and days; by default "
        "the time zone of the service (`PLUMBLINE_TIME_ZONE`).",
        examples=["Europe/Berlin"],
    )
    format: ReportFormat | None = Field(
        default=None, description="Format of the report; by default the one that `Accept` prefers."
    )
    language: ReportLanguage | None = Field(
        default=None, description="Language of the HTML page; by default the one that `Accept-Language` prefers."
    )

    @model_validator(mode="after")
    def _check_period(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise violated("period_order")
        return self


class ScoreDistribution(ResponseModel):
    """Scores of the inspections that one bundle judged with the same thresholds."""

    bundle_version: str
    fail_threshold: float
    review_threshold: float
    inspections: int
    bin_width: float = Field(description="Width of a bin of scores. The first bin begins at 0.")
    counts: list[int] = Field(
        description="Number of inspections by bin, empty if the fail threshold is not positive. The last bin contains "
        "all greater scores as well."
    )


class DefectSpot(ResponseModel):
    """A place of the part at which regions accumulate."""

    x: int = Field(description="Horizontal position, in pixels of the image.")
    y: int
    inspections: int = Field(description="Largest number of inspections with a region at the same point.")


class DefectMap(ResponseModel):
    """Where the regions of failed parts and of those that need review accumulate."""

    inspections: int = Field(description="Number of inspections whose regions were summed up, the newest ones.")
    other_sizes: int = Field(
        description="Number of further inspections that are left out, because their images have another size."
    )
    is_cut: bool = Field(
        description="Whether the period has more failed parts and parts for review than the newest ones, which are "
        "considered."
    )
    image_width: int = Field(description="Width of the images, in pixels.")
    image_height: int
    counts: list[list[int]] = Field(
        description="Number of inspections with a region in each cell of a grid over the image, row by row."
    )
    spots: list[DefectSpot] = Field(description="The places with the most inspections, most first.")
    image_inspection_id: str | None = Field(
        description="The inspection of a good part that the HTML page shows the map on; null if none is stored."
    )


class ReportReviews(ResponseModel):
    """What people stated about the judged inspections of the period."""

    inspections: int = Field(description="Number of judged inspections that were considered, the newest ones.")
    is_cut: bool = Field(description="Whether the period has more judged inspections.")
    sampled: int = Field(description="Number of inspections in the sample that the rates are estimated from.")
    reviewed: int = Field(description="Sampled inspections with the label good or defect.")
    unreviewed: int = Field(
        description="Inspections in cells of the estimate without any reviewed part; the rates leave them out."
    )
    false_reject: RateEstimate = Field(description="Share of good parts that fail.")
    false_alarm: RateEstimate = Field(description="Share of good parts that fail or need review.")
    miss: RateEstimate = Field(description="Share of defective parts that pass.")
    common: int = Field(description="Number of inspections with at least two reviewers.")
    pairs: list[PairAgreement] = Field(description="Agreement of each pair of reviewers with common inspections.")
    alpha: float | None = Field(description="Krippendorff's alpha of all reviewers; null if it is undefined.")


class ReportChange(ResponseModel):
    """A change of the recipe or of the bundle, from the audit log."""

    created_at: datetime
    actor: str
    action: str
    object: str | None = Field(description="The revision of the recipe, or the version of the bundle.")
    reason: str
    differences: list[RecipeDifference] = Field(description="The values that changed.")


class ProcessingTime(ResponseModel):
    """Time from decoding to the decision, with the wait for inference, without transfer and storage, to 0.1 ms."""

    inspections: int
    min_ms: float
    mean_ms: float
    p95_ms: float = Field(description="95th percentile, by the nearest rank.")
    max_ms: float


class ShiftReport(ResponseModel):
    """What happened to a product in a period."""

    product: str
    station: str | None = Field(description="The station that the report is limited to; null for all.")
    time_zone: str
    since: datetime = Field(description="Start of the period, inclusive.")
    until: datetime = Field(description="End of the period, exclusive.")
    created_at: datetime = Field(description="When the report was made.")
    total: DecisionCounts
    refused: int | None = Field(
        description="Number of refused requests; null, because the service does not store them."
    )
    invalid_reasons: dict[InvalidReason, int] = Field(
        description="Number of images that the quality check rejected, by reason. An image can have several reasons."
    )
    by: Literal["hour", "day"] = Field(description="What `periods` are: hours up to three days, otherwise days.")
    periods: list[SummaryGroup]
    stations: list[SummaryGroup] | None = Field(description="Counts per station; null for more than 1000 stations.")
    defect_map: DefectMap | None = Field(description="Null without a region.")
    scores: list[ScoreDistribution] = Field(
        description="Score distributions by bundle and thresholds, most inspections first, at most four."
    )
    other_scores: int = Field(description="Number of judged inspections with other bundles or thresholds than these.")
    reviews: ReportReviews
    changes: list[ReportChange] = Field(description="Changes of recipe and bundle in the period, oldest first.")
    are_changes_cut: bool = Field(description="Whether there were more changes; the newest ones are listed.")
    drift: list[DriftAlarm] = Field(
        description="Drift alarms that were open at some time in the period, oldest first, as they are when the report "
        "is made. A report on one station also has those of the product as a whole. A key that is restricted to "
        "stations gets those of its stations."
    )
    are_alarms_cut: bool = Field(description="Whether there were more drift alarms; the newest ones are listed.")
    processing_time: ProcessingTime | None = Field(description="Null without a judged inspection.")
    records_removed_until: RecordsRemovedUntil = None
