"""Tables of inspections, of the verdicts of shadow bundles, and of idempotency keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    String,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base

_KEPT = text("artefacts_removed_at IS NULL")
_HAS_STATION, _HAS_LOT = text("station IS NOT NULL"), text("lot IS NOT NULL")

ID_UNIT_MS = 2**16
"""Resolution of the time in the first 8 hexadecimal digits of an id, in milliseconds."""
ID_TOLERANCE = 2
"""Difference in these units between the time of an inspection and the time in its id that is not remarkable."""
_POSTGRESQL_UNIT = "CAST(floor(extract(epoch FROM created_at AT TIME ZONE 'UTC') * 1000 / 65536) AS bigint)"
CLOCK_SET = {
    "sqlite": "substr(id, 1, 8) NOT BETWEEN "
    "printf('%08x', strftime('%s', created_at) * 1000 / 65536 - 2) AND "
    "printf('%08x', strftime('%s', created_at) * 1000 / 65536 + 2)",
    "postgresql": "substr(id, 1, 8) NOT BETWEEN "
    f"lpad(to_hex({_POSTGRESQL_UNIT} - 2), 8, '0') AND lpad(to_hex({_POSTGRESQL_UNIT} + 2), 8, '0')",
}
"""SQL condition of inspections with another time in their id than `created_at`, because the clock was set. They are
few, so an index of them alone makes it possible to find all others of a period by their ids.
"""


class InspectionRow(Base):
    """One inspection, with everything that is needed to display and to replay it."""

    __tablename__ = "inspections"
    __table_args__ = (
        # Ids are UUIDv7 and sort in the order of creation, so one column is enough to page through the list.
        Index(None, "product", "id"),
        Index(None, "product", "decision", "id"),
        Index(None, "part_id", "id"),
        # For lists: each index has the columns of a combination of filters, and ends with the id (`inspection_filter`).
        Index(None, "decision", "id"),
        Index(None, "product", "station", "decision", "id", sqlite_where=_HAS_STATION, postgresql_where=_HAS_STATION),
        Index(None, "station", "decision", "id", sqlite_where=_HAS_STATION, postgresql_where=_HAS_STATION),
        Index(None, "lot", "decision", "id", sqlite_where=_HAS_LOT, postgresql_where=_HAS_LOT),
        Index(None, "product", "score", "id"),
        Index(
            "ix_inspections_clock_set",
            "id",
            sqlite_where=text(CLOCK_SET["sqlite"]),
            postgresql_where=text(CLOCK_SET["postgresql"]),
        ),
        # For retention. Partial, because after some time most inspections have had their files removed.
        Index(
            "ix_inspections_kept",
            "product",
            "decision",
            "id",
            "artefact_bytes",
            sqlite_where=_KEPT,
            postgresql_where=_KEPT,
        ),
        # Ids do not give the time of an inspection if the clock was set back.
        Index(
            "ix_inspections_kept_time", "product", "decision", "created_at", sqlite_where=_KEPT, postgresql_where=_KEPT
        ),
        Index(None, "product", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    created_at: Mapped[datetime]
    product: Mapped[str] = mapped_column(String(64))
    decision: Mapped[str] = mapped_column(String(16))
    score: Mapped[float | None]
    """None for an image that the quality check rejected before inference; the p-value is None, too."""
    p_value: Mapped[float | None]
    fail_threshold: Mapped[float]
    review_threshold: Mapped[float]
    target_false_reject_rate: Mapped[float | None]
    certified: Mapped[bool]
    calibration_count: Mapped[int]
    heatmap_low: Mapped[float]
    heatmap_high: Mapped[float]
    regions: Mapped[list[dict[str, Any]]]

    bundle_digest: Mapped[str] = mapped_column(String(64))
    bundle_version: Mapped[str] = mapped_column(String(12))
    method: Mapped[str] = mapped_column(String(64))
    provider: Mapped[str] = mapped_column(String(16))
    recipe_revision: Mapped[int]

    image_media_type: Mapped[str] = mapped_column(String(64))
    image_width: Mapped[int]
    image_height: Mapped[int]
    image_bytes: Mapped[int]
    image_sha256: Mapped[str] = mapped_column(String(64))
    timings_ms: Mapped[dict[str, Any]]
    batch_size: Mapped[int]

    image_pixels: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """How the image's bytes were interpreted (`PixelRules`), where the bytes alone do not define it."""
    by_score: Mapped[str | None] = mapped_column(String(16), default=None)
    """The decision before region filters; None if no region was dropped."""
    dropped_regions: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """Number of regions that each filter dropped."""
    judged_share: Mapped[float | None] = mapped_column(default=None)
    """Share of the anomaly map inside the inspected area; None if all of it was inspected."""
    quality: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """Quality measures of the image (`Quality`)."""
    objections: Mapped[list[dict[str, Any]] | None] = mapped_column(default=None)
    """Reasons for the decision `invalid` (`QualityViolation`)."""

    artefacts_removed_at: Mapped[datetime | None] = mapped_column(default=None)
    """When retention removed image and map; None if it did not."""
    artefact_bytes: Mapped[int | None] = mapped_column(BigInteger, default=None)
    """Size of image and map together, in bytes."""

    part_id: Mapped[str | None] = mapped_column(String(128), default=None)
    station: Mapped[str | None] = mapped_column(String(128), default=None)
    lot: Mapped[str | None] = mapped_column(String(128), default=None)
    captured_at: Mapped[datetime | None] = mapped_column(default=None)
    request_id: Mapped[str | None] = mapped_column(String(128), default=None)
    traceparent: Mapped[str | None] = mapped_column(String(64), default=None)
    proposal_id: Mapped[str | None] = mapped_column(String(36), default=None)
    """The proposal whose reference scores were used; None for the bundle's calibration card."""
    suspended: Mapped[bool | None] = mapped_column(default=None)
    """True if the guarantee was suspended because of drift; then `certified` is False."""


class ShadowRow(Base):
    """The verdict of a shadow bundle on an inspection's image. Deleted together with the inspection."""

    __tablename__ = "shadow_verdicts"
    __table_args__ = (Index(None, "bundle_version", "inspection_id"),)

    inspection_id: Mapped[str] = mapped_column(
        String(36), ForeignKey("inspections.id", ondelete="CASCADE"), primary_key=True
    )
    bundle_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    bundle_version: Mapped[str] = mapped_column(String(12))
    decision: Mapped[str] = mapped_column(String(16))
    score: Mapped[float]
    p_value: Mapped[float]
    fail_threshold: Mapped[float]
    review_threshold: Mapped[float]
    provider: Mapped[str] = mapped_column(String(16))
    infer_ms: Mapped[float]


class IdempotencyRow(Base):
    """An idempotency key and the inspection of the request that used it first."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "created_at"),)

    principal: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    inspection_id: Mapped[str] = mapped_column(String(36))
    created_at: Mapped[datetime]
