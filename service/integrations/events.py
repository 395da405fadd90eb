"""Make the documents that sinks receive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter

from service.integrations.config import SinkConfig
from service.integrations.delivery import Event
from service.schemas.inspection import Inspection
from service.schemas.outbox import InspectionEvent
from service.store.ids import new_id
from service.store.outbox import OutboxMessage
from service.store.records import InspectionRecord


@dataclass(frozen=True)
class Render:
    """What messages say about an inspection.

    Attributes:
        inspection: Returns the response of the API for an inspection.
        traceparent: Returns the W3C trace context of messages about an inspection; None if it belongs to no trace.
    """

    inspection: Callable[[InspectionRecord], Inspection]
    traceparent: Callable[[InspectionRecord], str | None] = attrgetter("traceparent")


def inspection_event(message: OutboxMessage, record: InspectionRecord, render: Render, config: SinkConfig) -> Event:
    """Return the event of an inspection, with the parts that a sink includes."""
    inspection = render.inspection(record)
    if config.base_url is not None:
        links = inspection.links
        absolute = {name: None if path is None else config.base_url + path for name, path in links.model_dump().items()}
        inspection = inspection.model_copy(update={"links": links.model_copy(update=absolute)})
    document = InspectionEvent(
        event_id=message.event_id,
        event_type="inspection.created",
        created_at=record.created_at,
        inspection=inspection,
    )
    left_out = {"regions", "links"} - config.include
    body = document.model_dump_json(exclude={"inspection": left_out} if left_out else None)
    traceparent = render.traceparent(record)
    return Event(message.event_id, "inspection.created", record.product, record.station, body.encode(), traceparent)


def test_event() -> Event:
    """Return an event that tests a sink."""
    event_id = str(new_id())
    document = InspectionEvent(event_id=event_id, event_type="test", created_at=datetime.now(UTC), inspection=None)
    return Event(event_id, "test", None, None, document.model_dump_json().encode())
