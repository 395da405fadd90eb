"""Make the documents that sinks receive."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from service.integrations.config import SinkConfig
from service.integrations.delivery import Event
from service.schemas.inspection import Inspection
from service.schemas.outbox import InspectionEvent
from service.store.ids import new_id
from service.store.outbox import OutboxMessage
from service.store.records import InspectionRecord

Render = Callable[[InspectionRecord], Inspection]
"""Returns the response of the API for an inspection."""


def inspection_event(message: OutboxMessage, record: InspectionRecord, render: Render, config: SinkConfig) -> Event:
    """Return the event of an inspection, with the parts that a sink includes."""
    inspection = render(record)
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
    return Event(message.event_id, "inspection.created", record.product, record.station, body.encode())


def test_event() -> Event:
    """Return an event that tests a sink."""
    event_id = str(new_id())
    document = InspectionEvent(event_id=event_id, event_type="test", created_at=datetime.now(UTC), inspection=None)
    return Event(event_id, "test", None, None, document.model_dump_json().encode())
