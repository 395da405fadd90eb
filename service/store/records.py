"""What leaves the store: immutable records, one field per column. The ORM stays inside."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class InspectionRecord:
    """One inspection, with everything that is needed to show and to replay it."""

    id: str
    created_at: datetime
    product: str
    decision: str
    score: float | None
    """None where the image was not worth a verdict and never saw the graph; so is the p-value."""
    p_value: float | None
    fail_threshold: float
    review_threshold: float
    target_false_reject_rate: float | None
    certified: bool
    calibration_count: int
    heatmap_low: float
    heatmap_high: float
    regions: list[dict[str, Any]]
    bundle_digest: str
    bundle_version: str
    method: str
    provider: str
    recipe_revision: int
    image_media_type: str
    image_width: int
    image_height: int
    image_bytes: int
    image_sha256: str
    timings_ms: dict[str, Any]
    batch_size: int
    image_pixels: dict[str, Any] | None = None
    """How the image's bytes were read (`PixelRules`), where the bytes alone do not say it."""
    by_score: str | None = None
    """The decision without region filters; None where none dropped anything."""
    dropped_regions: dict[str, Any] | None = None
    """How many regions filters dropped, by the filter."""
    judged_share: float | None = None
    """Share of the anomaly map that was judged; None where all of it was."""
    quality: dict[str, Any] | None = None
    """What was measured of the image (`Quality`)."""
    objections: list[dict[str, Any]] | None = None
    """Why an invalid image was not judged (`QualityViolation`)."""
    artefacts_removed_at: datetime | None = None
    """When retention removed image and map; None: it did not."""
    part_id: str | None = None
    station: str | None = None
    lot: str | None = None
    captured_at: datetime | None = None
    request_id: str | None = None
    traceparent: str | None = None
    proposal_id: str | None = None
    """The proposal whose good images p-value and thresholds rest on; None: the bundle's calibration card."""

    def columns(self) -> dict[str, Any]:
        """Return the value of every column, by name. Unlike `dataclasses.asdict` it copies nothing."""
        return {name: getattr(self, name) for name in _INSPECTION_COLUMNS}


_INSPECTION_COLUMNS = tuple(field.name for field in fields(InspectionRecord))


@dataclass(frozen=True, kw_only=True)
class ShadowRecord:
    """What a shadow bundle decided about an inspection's image."""

    inspection_id: str
    bundle_digest: str
    bundle_version: str
    decision: str
    score: float
    p_value: float
    fail_threshold: float
    review_threshold: float
    provider: str
    infer_ms: float

    def columns(self) -> dict[str, Any]:
        """Return the value of every column, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
