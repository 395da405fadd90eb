"""Identity of the files of the store: a deleted or replaced file is noticed, although the process still has it open.

An open file stays usable after it was deleted, or after its file system was unmounted lazily: SQLite would commit to a
file that nobody can open again. Therefore the device and the inode of every path are compared with those at the start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from service.store.errors import StoreUnavailable


class StorageGuard:
    """Checks that the paths of the store still name the files that were opened. One check takes a few microseconds."""

    def __init__(self) -> None:
        self._expected: Mapping[Path, tuple[str, int, int]] = MappingProxyType({})

    def watch(self, path: Path, name: str) -> None:
        """Remember the identity of a file or folder.

        Args:
            path: The file or folder.
            name: What it is, for messages, such as "the database".

        Raises:
            OSError: It does not exist.
        """
        status = path.stat()
        self._expected = MappingProxyType({**self._expected, path: (name, status.st_dev, status.st_ino)})

    def check(self) -> None:
        """Check all paths.

        Raises:
            StoreUnavailable: A file or folder is missing, or another one has its place.
        """
        for path, (name, device, inode) in self._expected.items():
            try:
                status = os.stat(path)  # noqa: PTH116 - runs several times per inspection
            except OSError as error:
                what = f"{name} {path} is missing ({error.strerror})"
            else:
                if (status.st_dev, status.st_ino) == (device, inode):
                    continue
                what = f"{name} {path} was replaced by another one"
            raise StoreUnavailable(
                f"{what} since the service was started",
                remedy="Put it back (a mount: mount it again), or restart the service to continue with what is there.",
            )
