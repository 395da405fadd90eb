"""Long reads of the records: few at the same time, in short steps, so that inspections are not delayed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from service.errors import InvalidRequest
from service.inspection.runtime.threads import lower_thread_priority
from service.serving.admission import Disconnected
from service.serving.errors import RecordsBusy

MAX_JOBS = 4
ResultT = TypeVar("ResultT")


class RecordJob:
    """A job that has been admitted.

    Args:
        thread: Runs the steps of all jobs.
        disconnected: Done when the client has closed its connection.
    """

    def __init__(self, thread: ThreadPoolExecutor, disconnected: asyncio.Future[None]) -> None:
        self._thread = thread
        self._disconnected = disconnected

    async def run(self, step: Callable[[], ResultT]) -> ResultT:
        """Run one step on the thread of the jobs.

        Raises:
            InvalidRequest: The client closed the connection, so the step was not run.
        """
        if self._disconnected.done():
            raise InvalidRequest("The client closed the connection, so the records are not read any further.")
        return await asyncio.get_running_loop().run_in_executor(self._thread, step)


class RecordJobs:
    """Summaries, exports and reports that run.

    All share one thread of low priority, and take turns step by step. Each client has one job at a time.
    """

    def __init__(self) -> None:
        self._clients: set[str] = set()
        self._thread = ThreadPoolExecutor(1, "records", initializer=lower_thread_priority)

    @asynccontextmanager
    async def reserve(self, client: str, disconnected: Disconnected) -> AsyncGenerator[RecordJob]:
        """Admit a job until the end of the block.

        Args:
            client: Identity of the client.
            disconnected: Returns when the client closes its connection.

        Raises:
            RecordsBusy: The client has another job, or too many clients have.
        """
        if client in self._clients or len(self._clients) >= MAX_JOBS:
            raise RecordsBusy(is_own=client in self._clients)
        self._clients.add(client)
        watching: asyncio.Future[None] = asyncio.ensure_future(disconnected())
        try:
            yield RecordJob(self._thread, watching)
        finally:
            watching.cancel()
            self._clients.discard(client)

    def close(self) -> None:
        """Complete the current step and stop the thread."""
        self._thread.shutdown(cancel_futures=True)
