"""Tables of training: the jobs and their images."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class TrainingJobRow(Base):
    """A training job: good images of a product, from which a worker makes bundles."""

    __tablename__ = "training_jobs"
    __table_args__ = (Index(None, "state", "id"), Index(None, "product", "id"))

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    product: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    author: Mapped[str] = mapped_column(String(128))
    images: Mapped[int]
    image_bytes: Mapped[int] = mapped_column(BigInteger)
    duplicates: Mapped[int]
    activate: Mapped[bool]
    quick_only: Mapped[bool]
    create_product: Mapped[bool]
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the claim. A worker states it with every report, so that one that lost the job changes nothing."""
    losses: Mapped[int] = mapped_column(default=0)
    """How often a worker stopped to report."""
    worker: Mapped[str | None] = mapped_column(String(128), default=None)
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    lease_until: Mapped[datetime | None] = mapped_column(default=None)
    finished_at: Mapped[datetime | None] = mapped_column(default=None)
    stage: Mapped[str | None] = mapped_column(String(128), default=None)
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str | None] = mapped_column(String(2000), default=None)
    versions: Mapped[list[dict[str, Any]]] = mapped_column(default_factory=list)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    images_removed_at: Mapped[datetime | None] = mapped_column(default=None)
    findings: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """What training found about the images; see `TrainingFindings.values`."""


class TrainingImageRow(Base):
    """An image of a training job. Its file is kept until the job has ended."""

    __tablename__ = "training_images"

    job_id: Mapped[str] = mapped_column(
        String(36), ForeignKey("training_jobs.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(256))
    media_type: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
