"""Server-sent events: one stored inspection each."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from plumbline_client.errors import ServiceProblem
from plumbline_client.responses import parse
from plumbline_client.schemas.inspection import Inspection

READ_TIMEOUT_S = 10.0
"""Seconds without anything received after which the connection is lost. The service sends something every second."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True)
class InspectionEvent:
    """A stored inspection.

    Attributes:
        cursor: The position behind it in the stream. Keep it to continue there later.
        inspection: The inspection.
    """

    cursor: str
    inspection: Inspection


@dataclass
class EventParser:
    """Reads events line by line.

    Attributes:
        url: The URL, for error messages.
        cursor: The last position that was received; None before the first one.
    """

    url: str
    cursor: str | None = None
    _fields: dict[str, str] = field(default_factory=dict)

    def reset(self) -> None:
        """Forget the part of an event that was received before a connection was lost."""
        self._fields = {}

    def add(self, line: str) -> InspectionEvent | None:
        """Take a line, and return the event that it completes.

        Raises:
            ServiceProblem: The service ended the stream because of an error.
            UnexpectedResponse: The event is not an inspection.
        """
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        data = fields.get("data")
        if data is not None and fields.get("event") == "problem":
            problem = json.loads(data)
            raise ServiceProblem(int(problem["status"]), problem)
        self.cursor = fields.get("id", self.cursor)
        if data is None or "event" in fields:
            return None
        return InspectionEvent(self.cursor or "", parse(Inspection, data.encode(), self.url))


def next_pause_s(pause_s: float) -> float:
    """Return the pause before the next attempt to connect."""
    return min(2 * pause_s, LONGEST_PAUSE_S)
