"""Responses with the results of several images."""

from __future__ import annotations

from pydantic import Field

from service.schemas.common import ResponseModel
from service.schemas.inspection import Inspection
from service.schemas.problem import Problem


class BatchItem(ResponseModel):
    """The result of one of several images: either an inspection or a problem."""

    index: int = Field(description="Position in the request, from 0.")
    name: str | None = Field(description="File name that the client sent. It is a label and is not interpreted.")
    inspection: Inspection | None = Field(default=None, description="The stored inspection.")
    problem: Problem | None = Field(default=None, description="Why the image was not inspected.")


class BatchResult(ResponseModel):
    """The results of all images, in the order of the request."""

    items: list[BatchItem]
    counts: dict[str, int] = Field(description="Number of images per decision, and of images with a `problem`.")
