"""The newest events of a stream of inspections, kept in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from itertools import islice

from service.store.inspection_feed import Entry

KEPT_EVENTS, KEPT_BYTES = 2000, 8 * 2**20
"""Most events that are kept for the streams. A stream that is further behind is closed."""


@dataclass(frozen=True)
class Event:
    """A stored inspection for the streams.

    Attributes:
        number: Counts the events of this process.
        entry: Identity of the inspection.
        content: The event as it is sent.
    """

    number: int
    entry: Entry
    content: bytes


class TooSlow(Exception):
    """The events behind a stream are not kept any more."""


class KeptEvents:
    """The newest events, numbered in the order in which they were added. Callable by any thread.

    Attributes:
        number: Number of the newest event; 0 before the first one.
    """

    def __init__(self) -> None:
        self.number = 0
        self._lock = threading.Lock()
        self._kept: deque[Event] = deque()
        self._kept_bytes = 0

    def add(self, entry: Entry, content: bytes) -> None:
        """Add an event."""
        with self._lock:
            self.number += 1
            self._kept.append(Event(self.number, entry, content))
            self._kept_bytes += len(content)
            while len(self._kept) > KEPT_EVENTS or (self._kept_bytes > KEPT_BYTES and len(self._kept) > 1):
                self._kept_bytes -= len(self._kept.popleft().content)

    def clear(self) -> None:
        """Keep nothing. The next event follows the number of the last one."""
        with self._lock:
            self._kept.clear()
            self._kept_bytes = 0

    def has_since(self, number: int) -> bool:
        """Return whether all events behind a number are kept."""
        with self._lock:
            return self.number - number <= len(self._kept)

    def since(self, number: int) -> list[Event]:
        """Return the events behind a number.

        Raises:
            TooSlow: Some of them are not kept any more.
        """
        with self._lock:
            count = self.number - number
            if count > len(self._kept):
                raise TooSlow
            return list(islice(self._kept, len(self._kept) - count, None)) if count else []
