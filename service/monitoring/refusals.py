"""Log lines about refused requests, limited in number, so that a flood of refusals does not fill the disk."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)

WINDOW_S = 60.0
_MAX_ADDRESS = 64


@dataclass
class Sender:
    """Who sends a request, for the log.

    Attributes:
        client: Address of the client; None for a Unix socket.
        principal: Kind and id of the key or account, such as `key 1d5be78afcc3778a`, never a secret; the kind alone if
            there is no id.
    """

    client: str | None
    principal: str = "anonymous"


SENDER: ContextVar[Sender | None] = ContextVar("sender", default=None)
"""The sender of the request or stream that runs. Its principal is set when the credentials were checked."""


def sender_at(address: str | None) -> Sender:
    """Return a sender that is not authenticated yet. A proxy may report any text as the address."""
    return Sender(None if address is None else address[:_MAX_ADDRESS])


class RefusalLog:
    """Logs refused requests and images at level `info`, at most a number of lines per minute and problem.

    What exceeds the limit is counted. The count is logged with the first request of any kind after the minute, and when
    the service stops.

    Args:
        limit: Lines per minute and problem.
        clock: Returns seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._window_end = clock() + WINDOW_S
        self._logged: Counter[str] = Counter()
        self._suppressed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def record(self, problem: str, request_id: str | None, **fields: object) -> None:
        """Log a refusal, or count it if the limit is reached.

        Args:
            problem: Last part of the problem's type.
            request_id: The id that the problem names.
            **fields: More fields of the log line.
        """
        self.tick()
        with self._lock:
            if self._logged[problem] >= self._limit:
                self._suppressed[problem] += 1
                return
            self._logged[problem] += 1
        sender = SENDER.get()
        if sender is not None:
            fields = {"client": sender.client, "principal": sender.principal, **fields}
        log.info("refused", problem=problem, request_id=request_id, **fields)

    def tick(self) -> None:
        """Log the number of suppressed lines if the minute is over. Called at every request."""
        if self._clock() >= self._window_end:
            self.flush()

    def flush(self) -> None:
        """Log the number of suppressed lines and begin a new minute."""
        with self._lock:
            suppressed, self._suppressed = self._suppressed, Counter()
            self._logged.clear()
            self._window_end = self._clock() + WINDOW_S
        for problem, count in sorted(suppressed.items()):
            log.info("refusals not logged", problem=problem, suppressed=count)
