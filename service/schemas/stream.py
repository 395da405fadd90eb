"""What goes over a camera's stream, as JSON; `docs/stream.md` describes the conversation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from service.schemas.batch import BatchItem
from service.schemas.common import Answer, PartFields
from service.schemas.problem import Problem


class BufferFields(BaseModel):
    """How camera buffers are laid out; what is not said, the recipe declares."""

    model_config = ConfigDict(extra="forbid")

    pixel_format: str | None = Field(default=None, max_length=32, description="PFNC name.")
    width: int | None = Field(default=None, ge=1, le=65535)
    height: int | None = Field(default=None, ge=1, le=65535)
    stride: int | None = Field(default=None, ge=1, le=2**24, description="Bytes from line to line.")


class Hello(BaseModel):
    """The first message: what holds for every frame that says nothing else."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["hello"]
    part: PartFields = PartFields()
    buffer: BufferFields = Field(default=BufferFields(), description="Empty: frames are encoded images.")


class AboutFrame(BaseModel):
    """What holds for the next frame only, on top of the hello."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["frame"]
    name: str | None = Field(default=None, max_length=256, description="Comes back with the answer.")
    part: PartFields = PartFields()
    buffer: BufferFields = BufferFields()


class End(BaseModel):
    """No frame follows; what is in flight is answered, then the service closes the stream."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["end"]


class Ready(Answer):
    """The service's answer to the hello."""

    type: Literal["ready"] = "ready"
    stream: str = Field(description="Names the stream; `<stream>/<index>` is the request id of a frame.")
    product: str
    in_flight: int = Field(description="Frames that are read and not answered yet, at most.")
    max_frame_bytes: int


class StreamResult(BatchItem):
    """What became of one frame."""

    type: Literal["result"] = "result"


class StreamFailure(Answer):
    """The stream itself is at fault, and ends."""

    type: Literal["failure"] = "failure"
    problem: Problem


HELLO = TypeAdapter(Hello)
SAYING: TypeAdapter[AboutFrame | End] = TypeAdapter(Annotated[AboutFrame | End, Field(discriminator="type")])
TOLD: TypeAdapter[Ready | StreamResult | StreamFailure] = TypeAdapter(
    Annotated[Ready | StreamResult | StreamFailure, Field(discriminator="type")]
)
