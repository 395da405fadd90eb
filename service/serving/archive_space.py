"""Capacity for archives of images: disk space while they are received and inspected, and threads for directories."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from service.errors import DeadlineExceeded
from service.store.errors import StoreUnavailable

# Directories of archives that are read at the same time. Many large ones would take the threads of other requests.
_READ_AT_ONCE = 2
_RETRY_S = 1.0
ResultT = TypeVar("ResultT")


class ArchiveSpace:
    """Reserves space in the data folder before an archive is received, so that archives never fill the disk.

    It also bounds how many directories of archives are read at a time.

    Used from the event loop only.

    Args:
        folder: The data folder.
        reserve_bytes: Space that has to stay free for inspections.
    """

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._promised_bytes = 0
        self._reading = asyncio.Semaphore(_READ_AT_ONCE)

    async def read_directory(self, read: Callable[[], ResultT], timeout_s: float) -> ResultT:
        """Run a function that reads the directory of an archive, on another thread.

        Args:
            read: The function.
            timeout_s: Maximum wait for other archives, in seconds.

        Raises:
            DeadlineExceeded: The directories of other archives were read during the whole wait.
        """
        try:
            await asyncio.wait_for(self._reading.acquire(), timeout_s)
        except TimeoutError as error:
            raise DeadlineExceeded(timeout_s, _RETRY_S) from error
        try:
            return await run_in_threadpool(read)
        finally:
            self._reading.release()

    @contextmanager
    def reserve(self, size_bytes: int, what: str = "an archive") -> Iterator[None]:
        """Reserve space for an archive until the block ends.

        The space that an archive has already taken counts twice while it is received, which errs on the safe side.

        Args:
            size_bytes: Size of the archive, or the largest allowed size if it is not known.
            what: What needs the space, for the error message.

        Raises:
            StoreUnavailable: The disk has too little free space.
        """
        try:
            free = shutil.disk_usage(self._folder).free - self._promised_bytes - self._reserve_bytes
        except OSError as error:
            raise StoreUnavailable(f"{self._folder} cannot be read ({error.strerror})") from error
        if free < size_bytes:
            raise StoreUnavailable(
                f"{what} of up to {size_bytes} bytes does not fit on its disk, which has {max(0, free)} bytes free",
                remedy="Free some space, send a smaller archive or a form, or send the images one by one.",
            )
        self._promised_bytes += size_bytes
        try:
            yield
        finally:
            self._promised_bytes -= size_bytes
