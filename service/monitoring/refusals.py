"""Log lines about refused requests, limited in number, so that a flood of refusals does not fill the disk."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

log = structlog.get_logger(__name__)

WINDOW_S = 60.0
KEPT_PER_PROBLEM = 20
"""Newest refusals that are kept for each problem, so that many of one kind do not displace the others."""
_MAX_ADDRESS = 64
_MAX_REASON = 500


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


@dataclass(frozen=True)
class Refusal:
    """A request or an image that was refused.

    Attributes:
        at: When.
        problem: Last part of the problem's type.
        status: HTTP status.
        reason: Why.
        request_id: The id that the problem names.
        client: Address of the client; None if it is not known.
        principal: Kind and id of the key or account.
        method: HTTP method; None for an image of a stream or a batch.
        path: Path of the request; None for an image of a stream or a batch.
    """

    at: datetime
    problem: str
    status: int | None
    reason: str | None
    request_id: str | None
    client: str | None
    principal: str
    method: str | None
    path: str | None


class RefusalLog:
    """Logs refused requests and images at level `info`, at most a number of lines per minute and problem.

    What exceeds the limit is counted. The count is logged with the first request of any kind after the minute, and when
    the service stops. The newest refusals of each problem are kept in memory as well, logged or not.

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
        self._newest: defaultdict[str, deque[Refusal]] = defaultdict(lambda: deque(maxlen=KEPT_PER_PROBLEM))
        self._totals: Counter[str] = Counter()

    @property
    def totals(self) -> dict[str, int]:
        """Number of refusals since the start, by problem."""
        with self._lock:
            return dict(self._totals)

    def newest(self, limit: int) -> list[Refusal]:
        """Return the newest refusals that are kept, newest first.

        Args:
            limit: Maximum number of refusals.
        """
        with self._lock:
            kept = [refusal for found in self._newest.values() for refusal in found]
        return sorted(kept, key=lambda refusal: refusal.at, reverse=True)[:limit]

    def record(self, problem: str, request_id: str | None, **fields: object) -> None:
        """Log a refusal, or count it if the limit is reached.

        Args:
            problem: Last part of the problem's type.
            request_id: The id that the problem names.
            **fields: More fields of the log line.
        """
        self.tick()
        sender = SENDER.get()
        with self._lock:
            self._totals[problem] += 1
            self._newest[problem].append(_refusal(problem, request_id, sender, fields))
            if self._logged[problem] >= self._limit:
                self._suppressed[problem] += 1
                return
            self._logged[problem] += 1
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


def _refusal(problem: str, request_id: str | None, sender: Sender | None, fields: Mapping[str, Any]) -> Refusal:
    reason = fields.get("reason")
    return Refusal(
        datetime.now(UTC),
        problem,
        fields.get("status"),
        None if reason is None else str(reason)[:_MAX_REASON],
        request_id,
        None if sender is None else sender.client,
        "unknown" if sender is None else sender.principal,
        fields.get("method"),
        fields.get("path"),
    )
