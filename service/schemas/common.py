"""Field types and base classes that several schemas share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

SYSTEM_AUTHOR = "plumbline"
"""The author of changes that the service itself makes. Clients cannot use this name."""


# No control characters: these texts are written to logs, headers, databases and spreadsheets. \x80-\x9f are control
# characters, too; those from \u200e on change the direction of the text, so that it looks like another one.
_INVISIBLE = r"\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"
LABEL_PATTERN = rf"^[^\x00-\x1f{_INVISIBLE}]+$"
KEY_PATTERN = r"^[\x21-\x7e]+$"
SENTENCE_PATTERN = rf"^[^\x00-\x08{_INVISIBLE}]+$"
Label = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=LABEL_PATTERN)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=LABEL_PATTERN)]
Sentence = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=SENTENCE_PATTERN)
]


def _reject_system_author(author: str) -> str:
    if author.strip().lower() == SYSTEM_AUTHOR:
        raise ValueError(f"{SYSTEM_AUTHOR!r} is reserved for the service itself; give the name of a person")
    return author


Author = Annotated[Label, AfterValidator(_reject_system_author)]
AUTHOR = (
    "Name of the person. With authentication, the name of the key or account is recorded instead; without, `local` \
if it is missing."
)
ConfirmRemoval = Annotated[
    int | None,
    Field(
        ge=0,
        le=2**53,
        description="Confirms that the change may remove the images and maps of this number of inspections. It is "
        "needed, with the scope `admin` beside `engineer`, if the retention of the recipe would remove more than it "
        "keeps, and must be at least `removed` of the problem `removal-not-confirmed`.",
    ),
]


class ResponseModel(BaseModel):
    """Base class of everything the service returns: immutable."""

    model_config = ConfigDict(frozen=True)


RecordsRemovedUntil = Annotated[
    datetime | None,
    Field(
        description="Time of the newest record that was removed for its age (`PLUMBLINE_RECORD_DAYS`), if it is in the "
        "period or later. Figures about the time up to it are incomplete: they lack the removed records, and contain "
        "those that are kept, such as reviewed ones. Null if no record of the period was removed."
    ),
]


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:  # within a day of the smallest or largest datetime
        raise ValueError("cannot be converted to UTC") from error


UtcDatetime = Annotated[AwareDatetime, AfterValidator(_to_utc)]


class PartFields(BaseModel):
    """Optional information about the part. It is stored with the inspection and returned unchanged."""

    model_config = ConfigDict(extra="forbid")

    part_id: Label | None = Field(default=None, description="Serial number of the part.")
    station: Label | None = Field(default=None, description="Station at which the image was taken.")
    lot: Label | None = Field(default=None, description="Lot or order of the part.")
    captured_at: UtcDatetime | None = Field(
        default=None, description="When the image was taken, with time zone.", examples=["2026-03-01T08:30:00Z"]
    )


class BufferHeaders(BaseModel):
    """Layout of a camera buffer. A request without these headers contains an encoded image."""

    x_pixel_format: str | None = Field(
        default=None,
        max_length=32,
        pattern=LABEL_PATTERN,
        description="PFNC name of the pixel format, such as `Mono12p` or `BayerRG8`.",
    )
    x_width: int | None = Field(default=None, ge=1, le=65535, description="Width in pixels.")
    x_height: int | None = Field(default=None, ge=1, le=65535, description="Height in pixels.")
    x_stride: int | None = Field(
        default=None,
        ge=1,
        le=2**24,
        description="Bytes from the start of one row to the start of the next. Without it, rows have no padding.",
    )


Guarantee = Literal["certified", "suspended", "none"]
"""`suspended`: the calibration images certify the false-reject rate, but drift was found."""


class RateBound(ResponseModel):
    """Upper bounds of the share of good parts that fail, for images taken like those of the calibration."""

    average: float = Field(description="Bound on average over calibrations.")
    confident: float = Field(description="Bound for the calibration at hand, with probability `confidence`.")
    confidence: float
    images: int = Field(description="Number of good images that the bounds are derived from.")
    certified: bool = Field(
        description="Whether the images certify the requested rate. If not, that rate is extrapolated, and the bounds "
        "are the smallest ones that the images certify."
    )
    statement: str = Field(description="Both bounds in words.")
