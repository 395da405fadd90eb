"""Admission control: limit the requests in flight, and give every client its share of the places.

Requests wait per client. The next request to run is one of the client with the fewest running requests; among equal
clients it is the one that was served least recently, so clients take turns. If the queue is full, the client with the
most requests in flight is refused first.

A burst may fill the whole queue. If the queue does not become short again, the service is overloaded: a long queue then
delays every request and completes none of them earlier, so it is kept short until nothing waits any more. This is the
distinction between good and bad queues of CoDel (Nichols and Jacobson, "Controlling queue delay", ACM Queue 10(5),
2012), applied to admission.

Refusals cost processor time as well. Therefore a client that is refused more often than requests complete gets its
refusals later: see `RefusalPace`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from service.errors import DeadlineExceeded, InvalidRequest, QueueFull, ShuttingDown
from service.serving.refusal_pace import RefusalPace

LOCAL = "local"
"""The client of requests that the service makes itself."""
_MIN_RETRY_S = 0.1
_SMOOTHING = 0.1  # weight of the newest duration in the moving average
_POLL_S = 0.05
_REMEMBERED_CLIENTS = 1024
_SHORT_QUEUE = 3  # requests in flight per running one, with which all running ones always have a successor
_EXTRA_RUNNING = 1
_BURST_S = 1.0
_CALM_S = 0.25

Disconnected = Callable[[], Awaitable[None]]
"""Returns when the client has closed its connection."""


@dataclass(frozen=True)
class Turn:
    """The turn of an admitted request.

    Attributes:
        since: When its deadline began, on the clock `time.perf_counter`.
        rank: How many other requests of its client ran already; see `Admission.turn`.
        client: Identity of the client.
        is_hit: Whether the bundle of its product was in memory when the request asked for it.
    """

    since: float
    rank: int = 0
    client: str = ""
    is_hit: bool = True

    def remaining_s(self, deadline_s: float) -> float:
        """Return the seconds until a deadline that began with the turn; negative after it."""
        return deadline_s - (time.perf_counter() - self.since)


@dataclass(eq=False)
class _Share:
    """What one client has in flight.

    Attributes:
        client: Identity of the client.
        count: Requests in flight, waiting or running.
        running: Requests that run.
        served: Number of the client's last start; larger means more recently.
        waiting: Waiting requests, the oldest first.
    """

    client: str
    count: int = 0
    running: int = 0
    served: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Admission:
    """A bound on the requests in flight, with a fair queue in front of the running ones.

    It must be used from the event loop only; therefore counting needs no lock.

    Args:
        limit: Maximum number of requests in flight, waiting or running.
        running: Maximum number of running requests. By default all requests in flight run at once.
        clock: Returns seconds.

    Attributes:
        depth: Number of requests in flight.
        draining: Set when no new requests are admitted.
    """

    def __init__(self, limit: int, running: int | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.limit = limit
        self.depth = 0
        self.draining = asyncio.Event()
        # Some requests must be able to wait: only waiting ones can be refused in favour of another client.
        self._max_running = limit if running is None else min(running, max(1, limit // 2))
        self._running = 0
        self._running_clients = 0
        self._starts = 0
        self._shares: OrderedDict[str, _Share] = OrderedDict()
        self._waiting: dict[str, _Share] = {}
        self._mean_duration_s = _MIN_RETRY_S
        self._clock = clock
        self._pace = RefusalPace(clock)
        self._short_limit = min(limit, _SHORT_QUEUE * self._max_running)
        self._is_overloaded = False
        self._long_since: float | None = None
        """Since when the queue is longer than the short limit; None if it is not."""
        self._calm_since: float | None = None
        """Since when no request waits; None if one does."""

    @property
    def is_draining(self) -> bool:
        """Whether no new requests are admitted."""
        return self.draining.is_set()

    def close(self) -> None:
        """Admit no new requests. Requests in flight are completed."""
        self.draining.set()

    def check(self, client: str) -> None:
        """Check that a request of this client would be admitted now. Use it before the body is received.

        Raises:
            QueueFull: The queue is full and the client has its share. Pass it to `hold` before the response is sent.
            ShuttingDown: The service is stopping.
        """
        if self.is_draining:
            raise ShuttingDown()
        if not self._is_full():
            return
        try:
            self._find_displaced(self._share(client))
        except QueueFull:
            hold_s, retry_after_s = self._pace.refuse(client, self._mean_duration_s / max(1, self.depth))
            full = self._full(max(retry_after_s, self._mean_duration_s))
            full.hold_s = hold_s
            raise full from None

    async def hold(self, refusal: QueueFull) -> None:
        """Wait before a refusal is sent, if its client is refused too often. It ends early when the service stops."""
        if refusal.hold_s > 0 and not self.is_draining:
            with self._pace.holding(), contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.draining.wait(), refusal.hold_s)

    @asynccontextmanager
    async def turn(
        self, client: str, timeout_s: float, disconnected: Disconnected | None = None, *, is_accepted: bool = False
    ) -> AsyncGenerator[int]:
        """Wait for the client's turn, and count the request as in flight until the block ends.

        Args:
            client: Identity of the client.
            timeout_s: Maximum wait in seconds.
            disconnected: Ends the wait when the client closes its connection.
            is_accepted: The request was checked (`check`) before the service began to stop, so it is still admitted.

        Returns:
            The rank of the request: how many other requests of the client run already. Inside the service, requests of
            a lower rank go first, so that a client with few requests does not wait for all of a client with many.

        Raises:
            QueueFull: The limit is reached, or another client needs the place that this client has beyond its share.
            DeadlineExceeded: The turn did not come in time.
            InvalidRequest: The client closed the connection.
            ShuttingDown: The service is stopping.
        """
        if self.is_draining and not is_accepted:
            raise ShuttingDown()
        share = self._share(client)
        if self._is_full():
            self._displace(self._find_displaced(share))
        entered = self._clock()
        self._count(share, 1)
        if (self._running < self._max_running and not self._waiting) or self._may_start_at_once(share):
            self._start(share)
        else:
            await self._wait(share, timeout_s, disconnected)
        try:
            yield share.running - 1
            self._observe(entered)
        finally:
            self._finish(share)
            self._count(share, -1)
            self._dispatch()

    @asynccontextmanager
    async def wait(self, timeout_s: float, client: str = LOCAL) -> AsyncIterator[int]:
        """Wait for the client's turn as `turn` does; wait while the limit is reached, too.

        Args:
            timeout_s: Maximum wait in seconds.
            client: Identity of the client.

        Raises:
            QueueFull: The limit was reached during the whole wait.
            DeadlineExceeded: The turn did not come in time.
            ShuttingDown: The service is stopping.
        """
        give_up = time.monotonic() + timeout_s
        async with AsyncExitStack() as entered:
            rank: int | None = None
            while rank is None:
                try:
                    remaining_s = max(0.0, give_up - time.monotonic())
                    rank = await entered.enter_async_context(self.turn(client, remaining_s))
                except QueueFull:
                    if time.monotonic() > give_up:
                        raise
                    await asyncio.sleep(_POLL_S)
            yield rank

    async def _wait(self, share: _Share, timeout_s: float, disconnected: Disconnected | None) -> None:
        """Wait until `_dispatch` starts the request. If that fails, the request is no longer counted."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        share.waiting.append(place)
        self._waiting[share.client] = share
        self._calm_since = None
        watcher = None if disconnected is None else asyncio.ensure_future(disconnected())
        try:
            awaited: set[asyncio.Future[None]] = {place} if watcher is None else {place, watcher}
            await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not place.done():
                if watcher is not None and watcher.done():
                    raise InvalidRequest("The client closed the connection while the image waited in the queue.")
                raise DeadlineExceeded(round(timeout_s, 3), self._retry_after_s())
            place.result()
        except BaseException:
            self._withdraw(share, place)
            raise
        finally:
            if watcher is not None:
                watcher.cancel()

    def _withdraw(self, share: _Share, place: asyncio.Future[None]) -> None:
        if not place.done():
            share.waiting.remove(place)
            self._forget_if_empty(share)
        elif place.exception() is not None:
            return  # displaced: `_displace` counted it out
        else:
            self._finish(share)
        self._count(share, -1)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._running < self._max_running and self._waiting:
            share = min(self._waiting.values(), key=lambda share: (share.running, share.served))
            place = share.waiting.popleft()
            self._forget_if_empty(share)
            self._start(share)
            place.set_result(None)

    def _may_start_at_once(self, share: _Share) -> bool:
        """Return whether a client that runs nothing may start beside another one that runs several requests."""
        return (
            share.running == 0
            and not share.waiting
            and self._running_clients < self._running < self._max_running + _EXTRA_RUNNING
        )

    def _is_full(self) -> bool:
        """Return whether a new request needs the place of another one."""
        now = self._clock()
        if self._is_overloaded:
            self._is_overloaded = self._calm_since is None or now - self._calm_since <= _CALM_S
        else:
            self._is_overloaded = self._long_since is not None and now - self._long_since > _BURST_S
        return self.depth >= (self._short_limit if self._is_overloaded else self.limit)

    def _find_displaced(self, newcomer: _Share) -> _Share:
        """Return the client that loses its newest waiting request to a request of another client.

        Raises:
            QueueFull: The newcomer has its share already.
        """
        if self._waiting:
            largest = max(self._waiting.values(), key=lambda share: (share.count, share.served))
            if (newcomer.count + 1, newcomer.served) < (largest.count, largest.served):
                return largest
        raise self._full()

    def _displace(self, share: _Share) -> None:
        place = share.waiting.pop()
        self._forget_if_empty(share)
        self._count(share, -1)
        place.set_exception(self._full())

    def _share(self, client: str) -> _Share:
        share = self._shares.get(client)
        if share is None:
            share = self._shares[client] = _Share(client)
            self._forget_clients()
        return share

    def _forget_clients(self) -> None:
        """Keep the shares of a bounded number of clients that have nothing in flight, the most recent ones."""
        while len(self._shares) > _REMEMBERED_CLIENTS + self.depth:
            idle = next(share for share in self._shares.values() if share.count == 0)
            del self._shares[idle.client]

    def _forget_if_empty(self, share: _Share) -> None:
        if not share.waiting:
            del self._waiting[share.client]
            if not self._waiting:
                self._calm_since = self._clock()

    def _count(self, share: _Share, change: int) -> None:
        share.count += change
        self.depth += change
        if self.depth < self._short_limit:
            self._long_since = None
        elif self._long_since is None:
            self._long_since = self._clock()

    def _start(self, share: _Share) -> None:
        self._starts += 1
        self._running += 1
        share.running += 1
        self._running_clients += share.running == 1
        share.served = self._starts
        self._shares.move_to_end(share.client)

    def _finish(self, share: _Share) -> None:
        self._running -= 1
        share.running -= 1
        self._running_clients -= share.running == 0

    def _observe(self, entered: float) -> None:
        self._mean_duration_s += _SMOOTHING * (self._clock() - entered - self._mean_duration_s)

    def _retry_after_s(self) -> float:
        # All requests in flight now have left after about the mean duration of one of them.
        return round(max(_MIN_RETRY_S, self._mean_duration_s), 1)

    def _full(self, retry_after_s: float | None = None) -> QueueFull:
        limit = self._short_limit if self._is_overloaded else self.limit
        return QueueFull(limit, self._retry_after_s() if retry_after_s is None else round(retry_after_s, 1))
