"""Server-sent events in tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

EVENTS = "/v1/inspections:events"


@dataclass(frozen=True)
class ReceivedEvent:
    """One event, or a part of the stream that sets the cursor only (`data` is None)."""

    cursor: str | None
    data: Any
    name: str = "message"


class EventReader:
    """Reads a response with events.

    Attributes:
        cursor: The last `id` that was received.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.cursor: str | None = None
        self._lines = response.iter_lines()

    def blocks(self) -> Iterator[ReceivedEvent]:
        """Yield everything that arrives: events, cursors without an event, and comments (as empty events)."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
                continue
            self.cursor = fields.get("id", self.cursor)
            data = json.loads(fields["data"]) if "data" in fields else None
            yield ReceivedEvent(fields.get("id"), data, fields.get("event", "message"))
            fields = {}

    def take(self, count: int) -> list[ReceivedEvent]:
        """Return the next events with data."""
        found: list[ReceivedEvent] = []
        while len(found) < count:
            block = next(self._blocks)
            if block.data is not None:
                found.append(block)
        return found

    def __enter__(self) -> EventReader:
        self._blocks = self.blocks()
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()

    def rest(self) -> list[ReceivedEvent]:
        """Return what arrives until the stream ends."""
        return list(self._blocks)

    def skip(self) -> ReceivedEvent:
        """Return the next block, whatever it is."""
        return next(self._blocks)


@contextmanager
def follow(
    client: httpx.Client, params: Any = None, *, after: str | None = None, **options: Any
) -> Iterator[EventReader]:
    """Open a stream of events and wait until it begins."""
    headers = dict(options.pop("headers", {})) | ({} if after is None else {"last-event-id": after})
    with client.stream("GET", EVENTS, params=params, headers=headers, **options) as response:
        if response.status_code != 200:
            response.read()
            raise httpx.HTTPStatusError(response.text, request=response.request, response=response)
        with EventReader(response) as reader:
            reader.skip()
            yield reader
