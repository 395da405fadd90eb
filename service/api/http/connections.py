"""Open connections of the server: how many there may be, and when they are closed."""

from __future__ import annotations

import asyncio
import select
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from service.monitoring.http_metrics import CloseReason
from service.monitoring.metrics import Metrics
from service.serving.memory_budget import MemoryBudget
from service.settings import Settings

if sys.platform != "win32":
    import resource

log = structlog.get_logger(__name__)

RESERVED_FILES = 32
"""Files that must stay available for images, maps, the database and the model repository."""
WRITE_BUFFER_BYTES = 64 * 2**10
_MIN_CONNECTIONS = 8
_SWEEP_S = 0.5
_LINGER_S = 0.5
_MAX_LINGERING = 8

IDLE, STALLED, RECEIVING = range(3)
"""Kinds of connections that can be closed for a new one, the best first."""


class Replaceable(NamedTuple):
    """How well a connection can be closed for a new one.

    Attributes:
        kind: `IDLE` (no request), `STALLED` (the client does not read) or `RECEIVING` (a body arrives).
        since: Since when, in seconds of the event loop's clock.
    """

    kind: int
    since: float


class TrackedConnection(Protocol):
    """A protocol object whose connection is counted.

    Attributes:
        transport: Its transport.
        write_deadline: Time when the connection is aborted because the client does not read; None if it reads.
    """

    transport: asyncio.Transport
    write_deadline: float | None

    def replaceable(self, now: float) -> Replaceable | None:
        """Return how well the connection can be closed for a new one, or None if it cannot."""

    def replace(self) -> None:
        """Close the connection for a new one."""

    def check(self, now: float) -> None:
        """Close the connection if one of its deadlines has passed."""

    def drain(self) -> None:
        """Close the connection after the response in progress."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of connections.

    Attributes:
        connections: Most open connections.
        header_s: Longest time for the headers of a request, in seconds.
        idle_s: Longest time without a request, in seconds.
        write_s: Longest time without progress of a response, in seconds.
    """

    connections: int
    header_s: float
    idle_s: float
    write_s: float

    @classmethod
    def from_settings(cls, settings: Settings) -> ConnectionLimits:
        """Return the limits for the given settings and the number of files that the process may open."""
        possible = _possible_connections(settings.max_connections)
        if possible < settings.max_connections:
            log.warning("fewer connections than configured", limit=possible, configured=settings.max_connections)
        return cls(possible, settings.header_timeout_s, settings.idle_timeout_s, settings.write_timeout_s)


class Connections:
    """All open connections of a server.

    Args:
        limits: When connections are refused and closed.
        metrics: Counts connections that the service closes.
        memory: Budget of the bodies in flight.

    Attributes:
        is_draining: Whether every connection is closed after its response.
    """

    def __init__(self, limits: ConnectionLimits, metrics: Metrics, memory: MemoryBudget) -> None:
        self.limits = limits
        self.memory = memory
        self.metrics = metrics
        self.is_draining = False
        self._open: dict[TrackedConnection, str] = {}
        self._lingering: dict[TrackedConnection, float] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        metrics.http.connections.set_function(lambda: len(self._open))

    def add(self, connection: TrackedConnection, client: str) -> bool:
        """Count a new connection.

        If the limit is reached, another connection is closed for the new one if possible.

        Args:
            connection: The connection.
            client: Identity of the client.

        Returns:
            Whether it may be used; otherwise call `linger` after the refusal was written.
        """
        if len(self._open) >= self.limits.connections and not self._replace_one(client):
            self.count_close("limit")
            return False
        self._open[connection] = client
        self._schedule_sweep()
        return True

    def hand_over(self, old: TrackedConnection, new: TrackedConnection) -> None:
        """Count a connection under a new protocol object, because it was upgraded to a WebSocket."""
        self._open[new] = self._open.pop(old)

    def discard(self, connection: TrackedConnection) -> None:
        """Stop counting a connection that was closed."""
        self._open.pop(connection, None)
        self._lingering.pop(connection, None)

    def linger(self, connection: TrackedConnection) -> None:
        """Close a connection shortly after a refusal was written to it.

        An immediate close while the client sends would reset the connection, and the client would not see the refusal.
        """
        if len(self._lingering) >= _MAX_LINGERING:
            connection.transport.close()
            return
        self._lingering[connection] = asyncio.get_running_loop().time() + _LINGER_S
        self._schedule_sweep()

    def drain(self) -> None:
        """Close every connection after its response; connections without a request stay open until the server stops."""
        self.is_draining = True
        for connection in list(self._open):
            connection.drain()

    def count_close(self, reason: CloseReason) -> None:
        """Count a connection that the service closes."""
        self.metrics.http.connections_closed.labels(reason).inc()

    def _replace_one(self, newcomer: str) -> bool:
        """Close a connection for a new one, preferably of the client with most connections.

        Connections without a request are closed for any client, others only for a client with fewer connections.
        """
        counts = Counter(self._open.values())
        now = asyncio.get_running_loop().time()
        best: tuple[tuple[int, int, float], TrackedConnection] | None = None
        for connection, client in self._open.items():
            candidate = connection.replaceable(now)
            if candidate is None or (candidate.kind != IDLE and counts[client] <= counts[newcomer] + 1):
                continue
            key = (candidate.kind, -counts[client], candidate.since)
            if best is None or key < best[0]:
                best = key, connection
        if best is None:
            return False
        self.discard(best[1])
        best[1].replace()
        self.count_close("replaced")
        return True

    def _schedule_sweep(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            self._check_write(connection, now)
            connection.check(now)
        for connection, until in list(self._lingering.items()):
            if now >= until:
                self.discard(connection)
                connection.transport.abort()
        if self._open or self._lingering:
            self._schedule_sweep()

    def _check_write(self, connection: TrackedConnection, now: float) -> None:
        if connection.write_deadline is None and connection.transport.is_closing():
            # Closing waits until the client has read everything, for ever if it does not.
            connection.write_deadline = now + self.limits.write_s
        if connection.write_deadline is not None and now >= connection.write_deadline:
            self.count_close("write")
            self.discard(connection)
            connection.transport.abort()


def has_unread_data(transport: asyncio.Transport) -> bool:
    """Return whether data of the client arrived that the event loop has not read yet."""
    if sys.platform == "win32":
        return False
    connection = transport.get_extra_info("socket")
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _possible_connections(wanted: int) -> int:
    """Return how many connections can be open, and raise the limit of open files of the process if that helps."""
    if sys.platform == "win32":
        return wanted
    used = _open_files() + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    needed = used + wanted
    if soft < needed and (hard == resource.RLIM_INFINITY or soft < hard):
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, max(_MIN_CONNECTIONS, soft - used))


def _open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).is_dir():
            return sum(1 for _ in Path(folder).iterdir())
    return RESERVED_FILES
