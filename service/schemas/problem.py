"""The problem document (RFC 9457)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

TYPE_PREFIX = "/problems#"
"""What every problem type starts with: a reference to a page that the service itself serves."""


class Problem(BaseModel):
    """A failure (RFC 9457). The page `/problems` lists all types and explains their additional members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        examples=[TYPE_PREFIX + "queue-full"],
        description="Type of the failure: a reference, relative to the URL of the service, to its explanation. Stable.",
    )
    title: str = Field(description="Short name of the type; the same for every occurrence.")
    status: int = Field(ge=400, le=599, description="The HTTP status code.")
    detail: str = Field(description="What happened, what was expected and what to do.")
    instance: str = Field(
        examples=["urn:plumbline:request:0192..."], description="Id of the request; the log has the same id."
    )
