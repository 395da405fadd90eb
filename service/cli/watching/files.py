"""Image files that another program writes into a folder: which ones are complete, and what they contain."""

from __future__ import annotations

import errno
import hashlib
import heapq
import os
import stat
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.inspection.image_files import IMAGE_SUFFIXES

if sys.platform != "win32":
    import fcntl

WINDOW = 1000
"""Files that a scan returns at most, the oldest first; later scans return the others."""
MAX_HELD_BACK = 10_000
TEMPORARY_SUFFIXES = (".part", ".tmp", ".crdownload")
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Incomplete(Exception):
    """The file is still being written, or it changed or vanished since the folder was scanned."""


class TooLarge(Exception):
    """The file is larger than the limit, so it is not read."""


@dataclass(frozen=True)
class DroppedFile:
    """An image file in the folder.

    Attributes:
        path: Path of the file.
        name: Path relative to the watched folder, with `/` between its parts. Bytes that are not UTF-8 are surrogates.
        size: Size in bytes.
        mtime_ns: Time of the last change, in nanoseconds since the epoch.
    """

    path: Path
    name: str
    size: int
    mtime_ns: int

    def is_unchanged(self, status: os.stat_result) -> bool:
        """Return whether a status describes this version of the file."""
        return stat.S_ISREG(status.st_mode) and status.st_size == self.size and status.st_mtime_ns == self.mtime_ns

    def key(self, product: str, sha256: str) -> str:
        """Return the idempotency key of the request that inspects this file.

        Name, size, time and content make the identity of a file, so the key is the same after a restart.

        Args:
            product: Name of the product.
            sha256: SHA-256 of the content; empty for a file that is too large to be read.
        """
        identity = (os.fsencode(product), os.fsencode(self.name), b"%d" % self.size, b"%d" % self.mtime_ns)
        return "watch-" + hashlib.sha256(b"\0".join((*identity, sha256.encode()))).hexdigest()


@dataclass(frozen=True)
class Scan:
    """The result of a scan.

    Attributes:
        ready: Complete files, the oldest first.
        settling: Number of files that changed too recently.
        empty: Number of files without content; they are complete when they have some.
    """

    ready: list[DroppedFile]
    settling: int
    empty: int


class Inbox:
    """The watched folder.

    It is scanned again and again, because notifications of file systems do not work on network shares. Hidden files,
    temporary files, other files than images, and links are ignored. Memory does not grow with the number of files.

    Args:
        folder: The watched folder.
        targets: Names of folders in it that are not scanned.
        recursive: Whether sub-folders are scanned.
        settle_s: Seconds during which size and time of a file must not change.
        skipped: Called with the name of a sub-folder that cannot be read, and the reason.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        folder: Path,
        targets: frozenset[str],
        *,
        recursive: bool,
        settle_s: float,
        skipped: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._targets = targets
        self._recursive = recursive
        self._settle_s = settle_s
        self._skipped = skipped
        self._clock = clock
        self._since: dict[DroppedFile, float] = {}
        self._held_back: OrderedDict[DroppedFile, float] = OrderedDict()
        self._newest_mtime_ns: int | None = None

    def scan(self) -> Scan:
        """Return which files are complete.

        Raises:
            OSError: The folder cannot be read.
        """
        now = self._clock()
        empty = 0

        def candidates() -> Iterator[DroppedFile]:
            nonlocal empty
            for file in self._files():
                if file.size == 0:
                    empty += 1
                elif self._newest_mtime_ns is not None and file.mtime_ns > self._newest_mtime_ns:
                    continue
                elif self._held_back.get(file, now) <= now:
                    yield file

        oldest = heapq.nsmallest(WINDOW, candidates(), key=lambda file: (file.mtime_ns, file.name))
        self._since = {file: self._since.get(file, now) for file in oldest}
        ready = [file for file in oldest if now - self._since[file] >= self._settle_s]
        return Scan(ready, len(oldest) - len(ready), empty)

    def limit_to_present(self) -> None:
        """Ignore files that are written from now on, for a single pass.

        The times of the files themselves are compared, because the clock of a file server may differ.

        Raises:
            OSError: The folder cannot be read.
        """
        self._newest_mtime_ns = max((file.mtime_ns for file in self._files()), default=-1)

    def hold_back(self, file: DroppedFile, seconds: float) -> None:
        """Leave a file out of the next scans for some time, or until it changes."""
        self._held_back.pop(file, None)
        self._held_back[file] = self._clock() + seconds
        # In a single pass all are remembered, or it would not end.
        if len(self._held_back) > MAX_HELD_BACK and self._newest_mtime_ns is None:
            self._held_back.popitem(last=False)

    def forget(self, file: DroppedFile) -> None:
        """Forget a file that is no longer in the folder."""
        self._since.pop(file, None)
        self._held_back.pop(file, None)

    def _files(self) -> Iterator[DroppedFile]:
        """Yield every image file.

        Raises:
            OSError: The folder itself cannot be read.
        """
        status = self._folder.stat()
        seen = {(status.st_dev, status.st_ino)}
        pending = [""]
        while pending:
            prefix = pending.pop()
            try:
                with os.scandir(self._folder / prefix) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        name = prefix + entry.name
                        if entry.is_dir(follow_symlinks=False):
                            if self._recursive and (prefix or entry.name not in self._targets):
                                self._enter(entry, name, seen, pending)
                        elif (file := _image_file(entry, name)) is not None:
                            yield file
            except OSError as error:
                if not prefix:
                    raise
                self._skipped(prefix, error.strerror or str(error))

    def _enter(self, entry: os.DirEntry[str], name: str, seen: set[tuple[int, int]], pending: list[str]) -> None:
        """Scan a sub-folder later, unless it is a link (on Windows also a junction) or was scanned already."""
        try:
            status = Path(entry.path).lstat()  # on Windows, the status of the entry has no identity
        except FileNotFoundError:
            return
        if getattr(status, "st_reparse_tag", 0) or (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        pending.append(f"{name}/")


def read_file(file: DroppedFile, max_bytes: int) -> bytes:
    """Return the content of a file that is complete.

    Raises:
        Incomplete: A program has it open for writing, or it changed or vanished since the scan.
        TooLarge: It has more than `max_bytes`.
        OSError: It cannot be read.
    """
    try:
        descriptor = os.open(file.path, _OPEN_FLAGS)
    except FileNotFoundError as error:
        raise Incomplete from error
    with os.fdopen(descriptor, "rb") as stream:
        if not file.is_unchanged(os.fstat(descriptor)) or is_open_for_writing(descriptor):
            raise Incomplete
        if file.size > max_bytes:
            raise TooLarge
        content = stream.read(file.size + 1)
        if len(content) != file.size or not file.is_unchanged(os.fstat(descriptor)):
            raise Incomplete
    return content


if sys.platform == "linux":

    def is_open_for_writing(descriptor: int) -> bool:
        """Return whether any program of this machine has the file open for writing.

        The kernel grants a read lease only if there is none. It requires the owner of the file or CAP_LEASE, and a
        local file system; where it is not possible, the result is False, and only the time since the last change
        decides. The process must ignore SIGIO, which the kernel sends when a program opens a leased file.
        """
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False

else:

    def is_open_for_writing(descriptor: int) -> bool:  # noqa: ARG001 - the same function on every platform
        """Return False: this platform does not report who has a file open."""
        return False


def _image_file(entry: os.DirEntry[str], name: str) -> DroppedFile | None:
    """Return an entry if it is an image file, not a link, and no temporary one."""
    suffix = Path(entry.name).suffix.lower()
    if suffix in TEMPORARY_SUFFIXES or suffix not in IMAGE_SUFFIXES:
        return None
    try:
        status = Path(entry.path).lstat()  # an entry caches its status, and on Windows it may be out of date
    except FileNotFoundError:  # removed since the folder was read
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return DroppedFile(Path(entry.path), name, status.st_size, status.st_mtime_ns)
