"""Disk space for archives of images while they are received and inspected."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.store.errors import StoreUnavailable


class ArchiveSpace:
    """Reserves space in the data folder before an archive is received, so that archives never fill the disk.

    Used from the event loop only.

    Args:
        folder: The data folder.
        reserve_bytes: Space that has to stay free for inspections.
    """

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._promised_bytes = 0

    @contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Reserve space for an archive until the block ends.

        The space that an archive has already taken counts twice while it is received, which errs on the safe side.

        Args:
            size_bytes: Size of the archive, or the largest allowed size if it is not known.

        Raises:
            StoreUnavailable: The disk has too little free space.
        """
        try:
            free = shutil.disk_usage(self._folder).free - self._promised_bytes - self._reserve_bytes
        except OSError as error:
            raise StoreUnavailable(f"{self._folder} cannot be read ({error.strerror})") from error
        if free < size_bytes:
            raise StoreUnavailable(
                f"an archive of up to {size_bytes} bytes does not fit on its disk, which has {max(0, free)} bytes free",
                remedy="Free some space, send a smaller archive or a form, or send the images one by one.",
            )
        self._promised_bytes += size_bytes
        try:
            yield
        finally:
            self._promised_bytes -= size_bytes
