"""Records of training jobs. They are frozen: a change of a job gives a new record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from service.schemas.training import GroupedBy, TrainingOutcome, TrainingState, TrainingVariant, VersionRole


@dataclass(frozen=True)
class TrainingImage:
    """An image of a job.

    Attributes:
        number: Position in the job, from 1 on.
        name: Name given by the sender, or the id of the inspection. It is never used as a path.
        media_type: Detected from the data.
        size_bytes: Size of the file in bytes.
        sha256: SHA-256 of the file, in hexadecimal digits.
    """

    number: int
    name: str
    media_type: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class TrainedVersion:
    """A bundle that a job made.

    Attributes:
        variant: `quick` for memory banks alone, `full` for the whole training.
        version: Version of the bundle.
        role: Role that the bundle got at once; None if it waits for a person.
    """

    variant: TrainingVariant
    version: str
    role: VersionRole | None

    def values(self) -> dict[str, Any]:
        """Return the values as they are stored."""
        return {"variant": self.variant, "version": self.version, "role": self.role}


@dataclass(frozen=True)
class TrainingFindings:
    """What training found about the images of a job.

    Attributes:
        suspected: Numbers and names of images that differ from all others and may show a defect, most distant first.
        grouped_by: The property that separates the capture groups; `none` if all images count as one.
        groups: Names of capture groups, at most `MAX_NAMED_GROUPS`.
        group_count: Number of capture groups.
        held_out_groups: Number of groups that are held out as a whole for the thresholds; 0 if single images are.
    """

    suspected: tuple[tuple[int, str], ...]
    grouped_by: GroupedBy
    groups: tuple[str, ...]
    group_count: int
    held_out_groups: int

    def values(self) -> dict[str, Any]:
        """Return the values as they are stored."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the findings from the values that are stored."""
        suspected = tuple((number, name) for number, name in values["suspected"])
        return cls(**{**values, "suspected": suspected, "groups": tuple(values["groups"])})


@dataclass(frozen=True)
class JobDraft:
    """A job to queue.

    Attributes:
        id: Id of the job, under which the files of its images are stored.
        product: Name of the product.
        images: The images, at least one.
        duplicates: Images that were left out because they are byte-identical to another one.
        activate: Activate the first bundle if the product serves nothing.
        quick_only: Do not train beyond the quick variant.
        create_product: The product may be new.
    """

    id: UUID
    product: str
    images: tuple[TrainingImage, ...]
    duplicates: int
    activate: bool
    quick_only: bool
    create_product: bool


@dataclass(frozen=True)
class JobProgress:
    """What a worker reports about the job that it holds.

    Attributes:
        stage: What it does at present.
        done: Items of the stage that are done.
        total: Items of the stage; 0 if they are not counted.
        seconds: Seconds since it began the job.
        version: A bundle that it has uploaded since its last report, or None.
        findings: What it found about the images since its last report, or None.
    """

    stage: str
    done: int
    total: int
    seconds: float
    version: TrainedVersion | None = None
    findings: TrainingFindings | None = None


@dataclass(frozen=True)
class JobEnd:
    """How the work on a job ended.

    Attributes:
        outcome: The outcome; `released` returns the job to the queue.
        error: Why it failed; None for another outcome.
    """

    outcome: TrainingOutcome
    error: str | None = None


@dataclass(frozen=True)
class TrainingJobRecord:
    """A stored job. The attributes that are not listed are those of `JobDraft` and `JobProgress`.

    Attributes:
        state: The state.
        created_at: When it was queued.
        author: Who queued it.
        images: Number of images.
        image_bytes: Size of all images in bytes.
        attempt: Number of the newest claim; 0 if no worker claimed the job yet.
        losses: How often a worker stopped to report.
        worker: Name of the worker that holds or held the job.
        started_at: When the newest claim began.
        lease_until: Until when the worker has to report; None if no worker holds the job.
        finished_at: When the job ended.
        error: Why it failed.
        versions: The bundles, in the order in which they were made.
        cancel_requested: Whether a person asked for the end of the job.
        images_removed_at: When the files of the images were removed; None as long as they are stored.
        findings: What training found about the images; None before it has looked at them.
    """

    id: str
    product: str
    state: TrainingState
    created_at: datetime
    author: str
    images: int
    image_bytes: int
    duplicates: int
    activate: bool
    quick_only: bool
    create_product: bool
    attempt: int
    losses: int
    worker: str | None
    started_at: datetime | None
    lease_until: datetime | None
    finished_at: datetime | None
    stage: str | None
    done: int
    total: int
    seconds: float
    error: str | None
    versions: tuple[TrainedVersion, ...]
    cancel_requested: bool
    images_removed_at: datetime | None
    findings: TrainingFindings | None

    @property
    def is_ended(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self.state not in {"queued", "running"}


@dataclass(frozen=True)
class JobCounts:
    """Numbers of jobs.

    Attributes:
        by_state: Number of jobs per state; a state without jobs is left out.
        stored_bytes: Size of the images of all jobs that are stored.
    """

    by_state: Mapping[str, int]
    stored_bytes: int
