"""Events that sinks receive, and requests and responses about the outbox."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.schemas.common import ResponseModel
from service.schemas.inspection import Inspection

EventType = Literal["inspection.created", "test"]
DeadReason = Literal["refused", "attempts", "age", "full", "missing"]


class InspectionEvent(ResponseModel):
    """What a webhook or an MQTT broker receives."""

    event_id: str = Field(description="Id of the event. A repeated delivery has the same id.")
    event_type: EventType
    created_at: datetime = Field(description="When the event occurred.")
    inspection: Inspection | None = Field(
        description="The inspection, as `GET /v1/inspections/{inspection_id}` returns it, without the parts that the "
        "sink does not include; null for a test."
    )


class SinkStatus(ResponseModel):
    """A sink and its messages in the outbox."""

    name: str
    kind: Literal["webhook", "mqtt"] | None = Field(description="Null if the sink is not configured.")
    target: str | None = Field(
        description="Scheme, host and port of the receiver, without secrets; null if the sink is not configured."
    )
    configured: bool = Field(description="False if the sink was removed from the configuration.")
    delivering: bool = Field(
        description="Whether this process delivers to the sink. With several processes, one of them does."
    )
    pending: int = Field(description="Number of messages that are not delivered yet.")
    oldest_at: datetime | None = Field(description="Time of the oldest pending message; null if there is none.")
    dead_letters: int = Field(description="Number of messages that were given up.")
    delivered_at: datetime | None = Field(
        description="When this process delivered a message the last time; null if it did not since its start."
    )
    failed_at: datetime | None = Field(
        description="When an attempt of this process failed the last time; null if none did since its start."
    )
    error: str | None = Field(description="Why the last attempt of this process failed; null if it did not fail.")


class OutboxStatus(ResponseModel):
    """All sinks, by name."""

    sinks: list[SinkStatus]


class DeadLetter(ResponseModel):
    """A message that was given up."""

    id: int
    sink: str
    product: str
    inspection_id: str
    event_id: str
    created_at: datetime = Field(
        description="Time of the inspection, or when the message was sent again the last time."
    )
    dead_at: datetime = Field(description="When the message was given up.")
    reason: DeadReason = Field(
        description="`refused`: the receiver returned an error that does not pass. `attempts`: too many attempts "
        "failed. `age`: not delivered in time. `full`: the outbox held too many messages of the sink. `missing`: the "
        "inspection is no longer stored."
    )
    attempts: int = Field(description="Number of attempts.")
    last_error: str | None = Field(description="Why the last attempt failed; null if there was none.")


class DeadLetterPage(ResponseModel):
    """Dead letters, newest first."""

    items: list[DeadLetter]
    next_cursor: int | None = Field(description="Value of `cursor` for the next page; null on the last page.")


class DeadLetterCount(ResponseModel):
    """The result of a change of dead letters."""

    count: int = Field(description="Number of dead letters that were changed.")
