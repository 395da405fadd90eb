"""The problem document (RFC 9457)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

TYPE_PREFIX = "/problems#"


class Problem(BaseModel):
    """A failure (RFC 9457). Members beyond these depend on the type; `docs/problems.md` lists the types."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=[TYPE_PREFIX + "queue-full"], description="Stable name of the kind of failure.")
    title: str = Field(description="The kind of failure in words; the same for every occurrence.")
    status: int = Field(ge=400, le=599, description="The HTTP status code.")
    detail: str = Field(description="What happened, what was expected, what to do.")
    instance: str = Field(examples=["urn:plumbline:request:0192..."], description="The request; also in the log.")
