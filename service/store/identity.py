"""Identity of the files of the store: a deleted or replaced file is noticed, although the process still has it open.

An open file stays usable after it was deleted, or after its file system was unmounted lazily: SQLite would commit to a
file that nobody can open again. Therefore the device and the inode of every path are compared with those at the start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from service.store.errors import StoreUnavailable


@dataclass(frozen=True)
class _Watched:
    """A path, and what it named when the store was opened.

    Attributes:
        name: What it is, for messages.
        device: Its file system.
        inode: Its number in the file system; None if it may be created anew in the same file system.
    """

    name: str
    device: int
    inode: int | None

    def problem(self, path: Path) -> str | None:
        """Return what is wrong with the path, or None."""
        try:
            status = os.stat(path)  # noqa: PTH116 - runs several times per inspection
        except FileNotFoundError as error:
            # A missing folder may be created anew, but not on another disk, where its parent is.
            if self.inode is None and path.parent.stat().st_dev == self.device:
                return None
            return f"{self.name} {path} is missing ({error.strerror})"
        except OSError as error:
            return f"{self.name} {path} cannot be examined ({error.strerror})"
        if status.st_dev == self.device and self.inode in {None, status.st_ino}:
            return None
        return f"{self.name} {path} was replaced by another one"


class StorageGuard:
    """Checks that the paths of the store still name the files that were opened. One check takes a few microseconds."""

    def __init__(self) -> None:
        self._watched: Mapping[Path, _Watched] = MappingProxyType({})

    def watch(self, path: Path, name: str, *, is_replaceable: bool = False) -> None:
        """Remember the identity of a file or folder.

        Args:
            path: The file or folder.
            name: What it is, for messages, such as "the database".
            is_replaceable: Only the file system has to stay the same: a folder whose mount is gone is noticed, while a
                folder that was deleted may be created anew.

        Raises:
            OSError: It does not exist.
        """
        status = path.stat()
        watched = _Watched(name, status.st_dev, None if is_replaceable else status.st_ino)
        self._watched = MappingProxyType({**self._watched, path: watched})

    def check(self) -> None:
        """Check all paths.

        Raises:
            StoreUnavailable: A file or folder is missing, or another one has its place.
        """
        for path, watched in self._watched.items():
            if (problem := watched.problem(path)) is not None:
                raise StoreUnavailable(
                    f"{problem} since the service was started",
                    remedy="Put it back (a mount: mount it again), or restart the service to continue with what is "
                    "there.",
                )
