"""What the API says about several images in one call, as JSON."""

from __future__ import annotations

from pydantic import Field

from service.schemas.common import Answer
from service.schemas.inspection import Inspection
from service.schemas.problem import Problem


class BatchItem(Answer):
    """What became of one image of several: either an inspection or a problem."""

    index: int = Field(description="Place in the request, from 0.")
    name: str | None = Field(description="What the sender called it; a label and nothing else.")
    inspection: Inspection | None = Field(default=None, description="The stored inspection.")
    problem: Problem | None = Field(default=None, description="Why there is none.")


class BatchAnswer(Answer):
    """What became of every image, in the order of the request."""

    items: list[BatchItem]
    counts: dict[str, int] = Field(description="How many got each decision, and how many a `problem`.")
