"""Drawing on threads: a bounded number of requests, of which clients take turns, each with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from service.errors import DeadlineExceeded
from service.inspection.runtime.threads import lower_thread_priority
from service.serving.admission import Admission, Disconnected

_RETRY_S = 1.0
ResultT = TypeVar("ResultT")


class Deadline:
    """Until when the artefact of an inspection must be ready.

    Args:
        inspection_id: The inspection.
        seconds: Time from now, in seconds.
    """

    def __init__(self, inspection_id: str, seconds: float) -> None:
        self._inspection_id = inspection_id
        self._seconds = seconds
        self._end = time.perf_counter() + seconds

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self._end - time.perf_counter())

    def check(self) -> None:
        """Raise `DeadlineExceeded` if the deadline has passed."""
        if self.remaining_s == 0:
            raise self.error()

    def error(self, retry_after_s: float | None = None) -> DeadlineExceeded:
        """Return the error for a deadline that has passed."""
        return DeadlineExceeded.of_drawing(self._inspection_id, self._seconds, retry_after_s or _RETRY_S)


class DrawingThreads:
    """Threads that draw, with an admission of their own.

    Drawings neither take the place of inspections nor use unbounded memory. As for inspections, clients take turns.

    Args:
        name: Name of the threads.
        threads: Number of threads.
        queue_limit: Most requests in flight, waiting or running.
        deadline_s: Longest time until a drawing is ready, in seconds, the wait included.
        is_background: Run the threads at low priority.
    """

    def __init__(
        self, name: str, threads: int, queue_limit: int, deadline_s: float, *, is_background: bool = False
    ) -> None:
        self.admission = Admission(queue_limit, threads)
        self.deadline_s = deadline_s
        initializer = lower_thread_priority if is_background else None
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=initializer)

    def deadline(self, inspection_id: str) -> Deadline:
        """Return the deadline of a drawing that is requested now."""
        return Deadline(inspection_id, self.deadline_s)

    @asynccontextmanager
    async def turn(
        self, inspection_id: str, client: str, disconnected: Disconnected | None = None
    ) -> AsyncGenerator[Deadline]:
        """Wait for the client's turn to draw. The deadline includes the wait.

        Args:
            inspection_id: The inspection.
            client: Identity of the client.
            disconnected: Ends the wait when the client closes its connection.

        Raises:
            QueueFull, DeadlineExceeded: Too many drawings are in flight, or the turn did not come in time.
            InvalidRequest: The client closed the connection while the request waited.
        """
        deadline = self.deadline(inspection_id)
        async with AsyncExitStack() as turn:
            try:
                await turn.enter_async_context(self.admission.turn(client, self.deadline_s, disconnected))
            except DeadlineExceeded as error:
                raise deadline.error(error.retry_after_s) from error
            yield deadline

    async def run(self, deadline: Deadline, draw: Callable[[], ResultT]) -> ResultT:
        """Draw on one of the threads. Work that has not begun in time is dropped.

        Raises:
            DeadlineExceeded: It was dropped.
        """
        work = self.pool.submit(draw)
        done = asyncio.wrap_future(work)
        try:
            await asyncio.wait({done}, timeout=deadline.remaining_s)
        finally:
            is_dropped = work.cancel()
        if is_dropped:
            raise deadline.error()
        return await done

    def close(self) -> None:
        """Complete the submitted work and stop the threads."""
        self.pool.shutdown()
