"""ORM models of the database tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """A timestamp with time zone. SQLite stores no zones, so values are stored in UTC and returned in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert a value to UTC for the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone; timestamps must be unambiguous across daylight saving changes")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return a value from the database as an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """Base of all tables."""

    # Constraints are named, because a migration can only alter a named constraint.
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
        list[str]: JSON(none_as_null=True),
    }


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


class RecipeRow(Base):
    """One revision of a product's recipe. Append-only."""

    __tablename__ = "recipes"
    __table_args__ = (UniqueConstraint("product", "revision"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    product: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int]
    created_at: Mapped[datetime]
    author: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(String(1000))
    bundle_digest: Mapped[str] = mapped_column(String(64))
    """The bundle on whose score scale the thresholds are. Scores of other bundles are not comparable."""
    recipe: Mapped[dict[str, Any]]


class ProposalRow(Base):
    """A threshold proposal with the scores that it was derived from. Append-only."""

    __tablename__ = "proposals"
    __table_args__ = (Index(None, "product", "id"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    product: Mapped[str] = mapped_column(String(64))
    bundle_digest: Mapped[str] = mapped_column(String(64))
    scores: Mapped[list[float]]
    """Scores of the good images, ascending: the reference for p-values once the proposal is applied."""
    review_rate: Mapped[float | None]
    """The requested review rate; None for the default."""
    proposal: Mapped[dict[str, Any]]


class BundleChoiceRow(Base):
    """A choice of a product's active or shadow bundle. Append-only; the newest row of a role is in force."""

    __tablename__ = "bundle_choices"
    __table_args__ = (Index(None, "product", "role", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    product: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    """The role: "active" or "shadow"."""
    created_at: Mapped[datetime]
    author: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(String(1000))
    bundle_digest: Mapped[str | None] = mapped_column(String(64))
    """The bundle; None if no bundle has the role from this choice on."""
    returns_to: Mapped[int | None]
    """The choice that a roll-back returns to. A second roll-back follows the link of that choice, so it goes back one
    bundle further and never returns to the bundle that was just rolled back.
    """


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


class AuditRow(Base):
    """An entry of the audit log. Append-only: triggers of the database refuse changes."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "product", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    created_at: Mapped[datetime]
    actor_kind: Mapped[str] = mapped_column(String(16))
    actor_id: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(128))
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(32))
    product: Mapped[str | None] = mapped_column(String(64))
    object: Mapped[str | None] = mapped_column(String(200))
    before: Mapped[str] = mapped_column(Text)
    """Canonical JSON, `null` if there was nothing before. Text, because the hash covers every character of it."""
    after: Mapped[str] = mapped_column(Text)
    """Canonical JSON, as `before`."""
    note: Mapped[str] = mapped_column(Text)
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


_PENDING = text("dead_at IS NULL")
_DEAD = text("dead_at IS NOT NULL")


class OutboxRow(Base):
    """A message to a sink that is not delivered yet, or a dead letter. Delivered messages are deleted.

    The inspection is not a foreign key: if its record were removed, a cascade would silently remove the message.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_pending", "sink", "product", "id", sqlite_where=_PENDING, postgresql_where=_PENDING),
        Index("ix_outbox_dead", "sink", "id", sqlite_where=_DEAD, postgresql_where=_DEAD),
        # Without it, SQLite would give the number of a deleted message to a new one.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, init=False)
    """Messages of one product and sink are delivered in the order of their ids."""
    sink: Mapped[str] = mapped_column(String(64))
    product: Mapped[str] = mapped_column(String(64))
    inspection_id: Mapped[str] = mapped_column(String(36))
    event_id: Mapped[str] = mapped_column(String(36))
    """The same for every attempt and every sink, so that receivers can detect duplicates."""
    created_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    rejections: Mapped[int] = mapped_column(default=0)
    """Attempts that the receiver answered with an error; only these count towards the limit of attempts."""
    next_attempt_at: Mapped[datetime | None] = mapped_column(default=None)
    last_error: Mapped[str | None] = mapped_column(String(500), default=None)
    dead_at: Mapped[datetime | None] = mapped_column(default=None)
    """When the message became a dead letter; None as long as it is pending."""
    dead_reason: Mapped[str | None] = mapped_column(String(16), default=None)


class ApiKeyRow(Base):
    """An API key. It is never deleted, because records name it as their author."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    """The public part of the key."""
    name: Mapped[str] = mapped_column(String(128))
    secret_hash: Mapped[str] = mapped_column(String(255))
    """argon2id hash of the secret part of the key."""
    scopes: Mapped[list[str]]
    products: Mapped[list[str] | None]
    """Products that the key may use; None for all."""
    stations: Mapped[list[str] | None]
    """Stations that the key may use; None for all."""
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """When the key was used last, exact to a minute."""


class AccountRow(Base):
    """The account of a person. It is never deleted, because records name it as their author."""

    __tablename__ = "accounts"
    __table_args__ = (UniqueConstraint("name_key"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    name_key: Mapped[str] = mapped_column(String(255))
    """The name in the form in which names are compared."""
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str] = mapped_column(String(255))
    """argon2id hash of the password."""
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    last_login_at: Mapped[datetime | None]


class SessionRow(Base):
    """A session of an account, from log-in to log-out or expiry."""

    __tablename__ = "sessions"
    __table_args__ = (Index(None, "account_id"),)

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the session token, which is random."""
    account_id: Mapped[str] = mapped_column(String(36), ForeignKey("accounts.id", ondelete="CASCADE"))
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    """When the session was used last, exact to a minute."""
    expires_at: Mapped[datetime]
    """When the session ends, however it is used."""


class ReviewRow(Base):
    """A review of an inspection by a person, or the withdrawal of one. Append-only."""

    __tablename__ = "reviews"
    __table_args__ = (
        Index(None, "inspection_id", "id"),
        Index(None, "product", "id"),
        Index(None, "product", "reviewer", "inspection_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    inspection_id: Mapped[str] = mapped_column(String(36), ForeignKey("inspections.id", ondelete="CASCADE"))
    product: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    reviewer: Mapped[str] = mapped_column(String(128))
    label: Mapped[str | None] = mapped_column(String(16))
    """None for a withdrawal."""
    kind: Mapped[str | None] = mapped_column(String(128))
    note: Mapped[str | None] = mapped_column(String(1000))
    withdraws: Mapped[int | None] = mapped_column(unique=True)
    """The review of the same reviewer that is withdrawn; None for a review."""


class InspectionLabelRow(Base):
    """The label of an inspection. It follows from the reviews and is stored so that lists can be filtered by it."""

    __tablename__ = "inspection_labels"
    __table_args__ = (Index(None, "label", "inspection_id"), Index(None, "product", "label", "inspection_id"))

    inspection_id: Mapped[str] = mapped_column(
        String(36), ForeignKey("inspections.id", ondelete="CASCADE"), primary_key=True
    )
    product: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str | None] = mapped_column(String(128))
