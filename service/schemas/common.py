"""Field types that several schemas share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

SYSTEM_AUTHOR = "plumbline"
"""Stands for the service itself in histories; no person may sign with it."""


# No control characters: these texts go into logs, headers, databases and spreadsheets.
Label = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Sentence = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=r"^[^\x00-\x08\x7f]+$")
]


def _a_person(author: str) -> str:
    if author.strip().lower() == SYSTEM_AUTHOR:
        raise ValueError(f"{SYSTEM_AUTHOR!r} stands for the service itself; name the person")
    return author


Author = Annotated[Label, AfterValidator(_a_person)]


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:  # within a day of the calendar's ends
        raise ValueError("is not a moment that can be written in UTC") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class PartFields(BaseModel):
    """What a sender may say about the part; stored and echoed."""

    model_config = ConfigDict(extra="forbid")

    part_id: Label | None = Field(default=None, description="Serial number of the part.")
    station: Label | None = Field(default=None, description="Where the image was taken.")
    lot: Label | None = Field(default=None, description="Lot or order that the part belongs to.")
    captured_at: Moment | None = Field(
        default=None, description="When the image was taken, with time zone.", examples=["2026-03-01T08:30:00Z"]
    )


class BufferHeaders(BaseModel):
    """How a camera buffer is laid out. A request without these headers carries an encoded image."""

    x_pixel_format: str | None = Field(
        default=None, max_length=32, description="PFNC name of the format, such as `Mono12p` or `BayerRG8`."
    )
    x_width: int | None = Field(default=None, ge=1, le=65535, description="Pixels in a line.")
    x_height: int | None = Field(default=None, ge=1, le=65535, description="Lines.")
    x_stride: int | None = Field(
        default=None, ge=1, le=2**24, description="Bytes from line to line; without it lines follow without padding."
    )
