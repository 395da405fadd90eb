"""Messages of the WebSocket stream of a camera; `docs/stream.md` describes the protocol."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from service.schemas.batch import BatchItem
from service.schemas.common import PartFields, ResponseModel
from service.schemas.problem import Problem


class BufferFields(BaseModel):
    """Layout of camera buffers. The recipe's `pixels` section supplies the fields that are missing here."""

    model_config = ConfigDict(extra="forbid")

    pixel_format: str | None = Field(default=None, max_length=32, description="PFNC name.")
    width: int | None = Field(default=None, ge=1, le=65535)
    height: int | None = Field(default=None, ge=1, le=65535)
    stride: int | None = Field(
        default=None, ge=1, le=2**24, description="Bytes from the start of one row to the start of the next."
    )


class Hello(BaseModel):
    """The first message of a client: defaults for all frames."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["hello"]
    part: PartFields = PartFields()
    buffer: BufferFields = Field(default=BufferFields(), description="If empty, frames are encoded images.")


class FrameMetadata(BaseModel):
    """Values for the next frame only; they override those of the hello message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["frame"]
    name: str | None = Field(default=None, max_length=256, description="Returned unchanged with the result.")
    part: PartFields = PartFields()
    buffer: BufferFields = BufferFields()


class End(BaseModel):
    """The last message of a client. The service sends the results of all frames in flight, then closes the stream."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["end"]


class Ready(ResponseModel):
    """The response to the hello message: the client can send frames."""

    type: Literal["ready"] = "ready"
    stream: str = Field(description="Id of the stream. The request id of a frame is `<stream>/<index>`.")
    product: str
    in_flight: int = Field(description="Largest number of frames that are read but have no result yet.")
    max_frame_bytes: int


class StreamResult(BatchItem):
    """The result of one frame."""

    type: Literal["result"] = "result"


class StreamFailure(ResponseModel):
    """A failure of the stream itself, which the service closes afterwards."""

    type: Literal["failure"] = "failure"
    problem: Problem


HELLO = TypeAdapter(Hello)
CLIENT_MESSAGE: TypeAdapter[FrameMetadata | End] = TypeAdapter(
    Annotated[FrameMetadata | End, Field(discriminator="type")]
)
SERVICE_MESSAGE: TypeAdapter[Ready | StreamResult | StreamFailure] = TypeAdapter(
    Annotated[Ready | StreamResult | StreamFailure, Field(discriminator="type")]
)
