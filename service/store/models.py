"""The tables: what is remembered about inspections, recipes and bundles."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time. SQLite forgets zones, so it is stored in UTC and gets its zone back when it is read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone; a line that runs over a change of clocks needs one")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    # Named constraints, because a migration can only change what has a name.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[dict[str, Any]]: JSON,
        list[float]: JSON,
    }


_KEPT = text("artefacts_removed_at IS NULL")


class InspectionRow(Base):
    """One verdict, with everything that is needed to show and to replay it."""

    __tablename__ = "inspections"
    __table_args__ = (
        # Ids are UUIDv7, so their order is the order of time and one column pages the list.
        Index(None, "product", "id"),
        Index(None, "product", "decision", "id"),
        Index(None, "part_id", "id"),
        # What retention looks at: without those whose files are gone, which are most of them after a while.
        Index("ix_inspections_kept", "product", "decision", "id", sqlite_where=_KEPT, postgresql_where=_KEPT),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    created_at: Mapped[datetime]
    product: Mapped[str] = mapped_column(String(64))
    decision: Mapped[str] = mapped_column(String(16))
    score: Mapped[float | None]
    """None where the image was not worth a verdict and never saw the graph; so is the p-value."""
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
    """How the image's bytes were read (`PixelRules`), where the bytes alone do not say it."""
    by_score: Mapped[str | None] = mapped_column(String(16), default=None)
    """The decision without region filters; None where none dropped anything."""
    dropped_regions: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """How many regions filters dropped, by the filter."""
    judged_share: Mapped[float | None] = mapped_column(default=None)
    """Share of the anomaly map that was judged; None where all of it was."""
    quality: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """What was measured of the image (`Quality`)."""
    objections: Mapped[list[dict[str, Any]] | None] = mapped_column(default=None)
    """Why an invalid image was not judged (`QualityViolation`)."""

    artefacts_removed_at: Mapped[datetime | None] = mapped_column(default=None)
    """When retention removed image and map; None: it did not."""

    part_id: Mapped[str | None] = mapped_column(String(128), default=None)
    station: Mapped[str | None] = mapped_column(String(128), default=None)
    lot: Mapped[str | None] = mapped_column(String(128), default=None)
    captured_at: Mapped[datetime | None] = mapped_column(default=None)
    request_id: Mapped[str | None] = mapped_column(String(128), default=None)
    traceparent: Mapped[str | None] = mapped_column(String(64), default=None)
    proposal_id: Mapped[str | None] = mapped_column(String(36), default=None)
    """The proposal whose good images p-value and thresholds rest on; None: the bundle's calibration card."""


class RecipeRow(Base):
    """One revision of a product's recipe. Rows are only ever added."""

    __tablename__ = "recipes"
    __table_args__ = (UniqueConstraint("product", "revision"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    product: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int]
    created_at: Mapped[datetime]
    author: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(String(1000))
    bundle_digest: Mapped[str] = mapped_column(String(64))
    """The bundle whose score scale the thresholds are on; another bundle's scores cannot be compared with
    them.
    """
    recipe: Mapped[dict[str, Any]]


class ProposalRow(Base):
    """A proposed threshold with the scores that it was derived from. Rows are only ever added."""

    __tablename__ = "proposals"
    __table_args__ = (Index(None, "product", "id"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    product: Mapped[str] = mapped_column(String(64))
    bundle_digest: Mapped[str] = mapped_column(String(64))
    scores: Mapped[list[float]]
    """Of the good images, ascending: what p-values are taken against once the proposal is applied."""
    review_rate: Mapped[float | None]
    """As it was asked for; None: the usual one."""
    proposal: Mapped[dict[str, Any]]


class BundleChoiceRow(Base):
    """Which bundle of a product decides, or watches, from this moment on. Rows are only ever added."""

    __tablename__ = "bundle_choices"
    __table_args__ = (Index(None, "product", "role", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    product: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    """"active" or "shadow"."""
    created_at: Mapped[datetime]
    author: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(String(1000))
    bundle_digest: Mapped[str | None] = mapped_column(String(64))
    """None: from now on no bundle has this role."""
    returns_to: Mapped[int | None]
    """The choice that a roll-back returns to. Following it twice goes back two bundles, never to the one that was just
    rolled back from.
    """


class ShadowRow(Base):
    """What a shadow said about the image of an inspection. It goes when the inspection's record goes."""

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
