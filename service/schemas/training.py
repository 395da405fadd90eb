"""Training jobs: good images of a product, from which a worker makes bundles."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.schemas.common import (
    AUTHOR,
    LABEL_PATTERN,
    SENTENCE_PATTERN,
    Author,
    Label,
    Name,
    ResponseModel,
    UtcDatetime,
)
from service.schemas.violations import violated

TrainingState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
TrainingVariant = Literal["quick", "full"]
VersionRole = Literal["active", "shadow"]
GroupedBy = Literal["folder", "date-in-name", "prefix", "none"]
"""What separates capture groups, as in `service.bundle.card`."""
TrainingOutcome = Literal["succeeded", "failed", "cancelled", "released"]
MIN_QUICK_IMAGES = 8
"""Fewest good images for the quick variant, as in `training.split`."""
MIN_FULL_IMAGES = 20
"""Fewest good images for the whole training, as in `training.split`."""
MAX_SELECTED_IMAGES = 500
MAX_ERROR = 2000
MAX_NAMED_GROUPS = 20
MAX_SUSPECTED = 100
Stage = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=LABEL_PATTERN)]
ErrorText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_ERROR, pattern=SENTENCE_PATTERN)
]


class TrainingOptions(BaseModel):
    """What is to be done with the good images."""

    model_config = ConfigDict(extra="forbid")

    author: Author | None = Field(default=None, description=AUTHOR)
    activate: bool = Field(
        default=False,
        description="Activate the first bundle at once if the product serves nothing. Otherwise, and if the product "
        "serves a bundle already, a person activates the new one.",
    )
    quick_only: bool = Field(
        default=False, description="Make the quick bundle only, without the whole training afterwards."
    )


class GoodImageUpload(TrainingOptions):
    """Options of a job whose images are in the body."""

    create_product: bool = Field(default=False, description="Accept a product that does not exist yet.")


class GoodImageSelection(TrainingOptions):
    """Stored inspections whose images are good. They are given by their ids, or by the label of their reviews."""

    ids: list[UUID] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_SELECTED_IMAGES,
        description="Inspections of this product. Each must be labelled good by reviews.",
    )
    label: Literal["good"] | None = Field(
        default=None,
        description="All inspections with this label whose images are still stored, oldest first, at most "
        f"{MAX_SELECTED_IMAGES}.",
    )
    since: UtcDatetime | None = Field(default=None, description="With `label`: only inspections from this time on.")
    until: UtcDatetime | None = Field(default=None, description="With `label`: only inspections before this time.")

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        has_period = self.since is not None or self.until is not None
        if (self.ids is None) == (self.label is None) or (self.ids is not None and has_period):
            raise violated("ids_or_label")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise violated("period_order")
        return self


class TrainingVersion(ResponseModel):
    """A bundle that a job made."""

    variant: TrainingVariant = Field(description="`quick`: memory banks alone. `full`: the whole training.")
    version: Name = Field(description="Version of the bundle.")
    role: VersionRole | None = Field(
        description="Role that the bundle got at once; null if it waits for a person to activate it."
    )


class SuspectedImage(ResponseModel):
    """An image that differs from all others of its job and may show a defect."""

    number: int = Field(description="Number of the image in the job.")
    name: str


class CaptureGroups(ResponseModel):
    """The capture groups that training found among the images."""

    grouped_by: GroupedBy = Field(
        description="What separates the groups: `folder`, `date-in-name`, or a common `prefix` of the names. `none`: "
        "all images count as one group."
    )
    groups: list[Label] = Field(max_length=MAX_NAMED_GROUPS, description="Names of the groups, the first ones.")
    group_count: int = Field(ge=1, le=2**31 - 1, description="Number of groups.")
    held_out_groups: int = Field(
        ge=0,
        le=2**31 - 1,
        description="Number of groups that are held out as a whole for the thresholds; 0 if single images are.",
    )


class TrainingFindings(CaptureGroups):
    """What training found about the images of a job."""

    suspected: list[SuspectedImage] = Field(
        description="Images that differ from all others and may show a defect, the most different one first. Look at "
        "them, and teach the product again without those that do."
    )


class ReportedFindings(CaptureGroups):
    """What a worker found about the images of a job."""

    model_config = ConfigDict(extra="forbid")

    suspected: list[Annotated[int, Field(ge=1, le=2**31 - 1)]] = Field(
        max_length=MAX_SUSPECTED, description="Numbers of the images that may show a defect."
    )


class TrainingJob(ResponseModel):
    """A training job."""

    id: str
    product: str
    state: TrainingState
    author: str = Field(description="Who queued the job.")
    created_at: datetime
    started_at: datetime | None = Field(description="When a worker took the job, the last time.")
    finished_at: datetime | None
    images: int = Field(description="Number of images.")
    image_bytes: int = Field(description="Size of all images in bytes.")
    duplicates: int = Field(description="Images that were left out because they are byte-identical to another one.")
    activate: bool
    quick_only: bool
    create_product: bool
    variants: list[TrainingVariant] = Field(
        description=f"The bundles to make, in this order. The whole training needs {MIN_FULL_IMAGES} images."
    )
    worker: str | None = Field(description="Name of the worker that has or had the job.")
    stage: str | None = Field(description="What the worker does at present, or did last.")
    done: int = Field(description="Items of the stage that are done.")
    total: int = Field(description="Items of the stage; 0 if they are not counted.")
    seconds: float = Field(description="Seconds that the worker has spent on the job.")
    cancel_requested: bool = Field(description="Whether the job is to end as soon as the worker notices it.")
    error: str | None = Field(description="Why the job failed.")
    versions: list[TrainingVersion] = Field(description="The bundles that were made, oldest first.")
    are_images_stored: bool = Field(description="Whether the images are still stored.")
    findings: TrainingFindings | None = Field(
        description="What training found about the images; null before it has looked at them."
    )


class TrainingJobPage(ResponseModel):
    """Jobs, newest first."""

    items: list[TrainingJob]
    next_cursor: str | None = Field(description="Pass as `cursor` to get the next page; null on the last page.")


class ClaimRequest(BaseModel):
    """A worker that is free."""

    model_config = ConfigDict(extra="forbid")

    worker: Label = Field(description="Name of the worker, such as its host name.")


class TrainingClaim(ResponseModel):
    """The job that a worker got, if there was one."""

    job: TrainingJob | None = Field(description="Null if no job is queued.")
    claim: int = Field(description="Number of the claim, which every report about the job has to state; 0 without job.")
    lease_s: float = Field(description="Seconds within which the worker has to report, or the job is queued again.")
    max_image_bytes: int = Field(description="Most encoded bytes of an image that the service accepts.")
    max_image_pixels: int = Field(description="Most pixels of an image that the service accepts, width x height.")


class TrainingImageRecord(ResponseModel):
    """An image of a job."""

    number: int
    name: str
    media_type: str
    size_bytes: int
    sha256: str


class TrainingImageList(ResponseModel):
    """The images of a job."""

    items: list[TrainingImageRecord]


class TrainingReport(BaseModel):
    """Progress of a job. A report is also a sign of life."""

    model_config = ConfigDict(extra="forbid")

    claim: int = Field(ge=1, le=2**31 - 1, description="Number of the claim.")
    stage: Stage
    done: int = Field(default=0, ge=0, le=2**31 - 1)
    total: int = Field(default=0, ge=0, le=2**31 - 1)
    seconds: float = Field(default=0.0, ge=0.0, le=1e9, description="Seconds since the worker began the job.")
    version: TrainingVersion | None = Field(default=None, description="A bundle that was uploaded.")
    findings: ReportedFindings | None = Field(default=None, description="What was found about the images.")


class TrainingEnd(BaseModel):
    """The end of the work on a job."""

    model_config = ConfigDict(extra="forbid")

    claim: int = Field(ge=1, le=2**31 - 1, description="Number of the claim.")
    outcome: TrainingOutcome = Field(description="`released`: the worker stops, and the job is queued again.")
    error: ErrorText | None = Field(default=None, description="Why the job failed; needed for `failed` only.")

    @model_validator(mode="after")
    def _check_error(self) -> Self:
        if (self.error is None) == (self.outcome == "failed"):
            raise violated("error_of_failure")
        return self
