"""Admit archives of bundles, with limits on their number, size and disk space."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from service.bundle.archive import check_space, open_spool
from service.bundle.errors import BundleTooLarge, RepositoryNotWritable
from service.deployment.errors import UploadsBusy

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class UploadLimits:
    """Limits of the uploads of bundles.

    Attributes:
        max_bytes: Largest archive, and largest unpacked bundle.
        max_uploads: Most uploads at the same time.
        reserve_bytes: Disk space that has to stay free.
    """

    max_bytes: int
    max_uploads: int
    reserve_bytes: int


@dataclass(eq=False)
class Upload:
    """An upload in progress.

    Attributes:
        file: The file that takes the archive. It has no name, so nothing of it remains.
        reserved_bytes: Disk space that the archive may take.
    """

    file: IO[bytes]
    reserved_bytes: int
    limits: UploadLimits
    _unpacking: asyncio.Lock

    @property
    def received_bytes(self) -> int:
        """Bytes in the file."""
        return self.file.tell()

    async def unpack(self, install: Callable[[], ResultT]) -> ResultT:
        """Run a function that unpacks the archive, on another thread. Archives are unpacked one at a time.

        Args:
            install: The function.
        """
        async with self._unpacking:
            return await asyncio.to_thread(install)


class BundleUploads:
    """Admits uploads of bundles.

    Args:
        models: The model repository. Archives are received on its disk.
        limits: The limits.
    """

    def __init__(self, models: Path, limits: UploadLimits) -> None:
        self.limits = limits
        self._models = models
        self._unpacking = asyncio.Lock()
        self._admitted = 0
        self._uploads: set[Upload] = set()

    @asynccontextmanager
    async def admit(self, stated_bytes: int | None) -> AsyncIterator[Upload]:
        """Admit an upload for the block. Its disk space is reserved before any of it is received.

        Args:
            stated_bytes: Size that the client states; None reserves the largest size of an archive.

        Raises:
            UploadsBusy: There are as many uploads as allowed.
            BundleTooLarge: The client states more than the largest size.
            NotEnoughSpace: The disk has too little free space.
            RepositoryNotWritable: The disk cannot be written.
        """
        if stated_bytes is not None and stated_bytes > self.limits.max_bytes:
            raise BundleTooLarge(self.limits.max_bytes)
        if self._admitted >= self.limits.max_uploads:
            raise UploadsBusy(self.limits.max_uploads)
        self._admitted += 1
        try:
            size = self.limits.max_bytes if stated_bytes is None else stated_bytes
            file = await asyncio.to_thread(self._open_spool)
            try:
                yield self._reserve(file, size)
            finally:
                self._uploads = {upload for upload in self._uploads if upload.file is not file}
                await asyncio.to_thread(file.close)
        finally:
            self._admitted -= 1

    def _open_spool(self) -> IO[bytes]:
        try:
            return open_spool(self._models)
        except OSError as error:
            raise RepositoryNotWritable(self._models, error.strerror) from error

    def _reserve(self, file: IO[bytes], size: int) -> Upload:
        # Once for the archive, once for the unpacked bundle. Weights hardly compress, so both have about this size;
        # the exact size is checked again before a bundle is written.
        promised = sum(2 * upload.reserved_bytes - upload.received_bytes for upload in self._uploads)
        check_space(self._models, 2 * size, self.limits.reserve_bytes, promised)
        upload = Upload(file, size, self.limits, self._unpacking)
        self._uploads.add(upload)
        return upload
