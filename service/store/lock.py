"""The lock that makes one process the only user of a data folder and of a SQLite database.

Recipes and active bundles are held in memory. A second process on the same SQLite database would not notice changes
made by the first one. The kernel releases the lock when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import weakref
from datetime import UTC, datetime
from pathlib import Path

import structlog

from service.store.errors import StoreUnavailable
from service.store.permissions import FILE_MODE

log = structlog.get_logger(__name__)

LOCK_NAME = "plumbline.lock"
_MAX_OWNER_BYTES = 500
_ATTEMPTS = 10
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
# Network file systems that have no locks.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


class FileLock:
    """A lock file that is locked as long as this object is open.

    The file stays after the lock is released: deleting it would let two processes lock two different files.

    Args:
        path: The lock file. It is created if it does not exist.
        protects: What the lock protects, for the message of a second process.

    Attributes:
        path: The lock file.
        is_held: False if the file system supports no locks, or if it is read-only and has no lock file.

    Raises:
        StoreUnavailable: Another process holds the lock.
        OSError: The lock file cannot be created.
    """

    def __init__(self, path: Path, protects: str) -> None:
        self.path = path
        self._descriptor: int | None = None
        for _ in range(_ATTEMPTS):
            descriptor = _open(path)
            if descriptor is None:
                return
            try:
                _lock(descriptor)
            except OSError as error:
                owner = _owner(descriptor)
                os.close(descriptor)
                if error.errno in _UNSUPPORTED:
                    log.warning("file system without locks: never start a second process on it", path=str(path))
                    return
                raise StoreUnavailable(
                    f"{protects} is in use by another Plumbline process ({owner})",
                    remedy="Stop that process, or set PLUMBLINE_DATA to another folder. Several processes can share a "
                    "store only in PostgreSQL (PLUMBLINE_DATABASE_URL).",
                ) from error
            if _is_at(descriptor, path):
                self._descriptor = descriptor
                _open_locks.add(self)
                _write_owner(descriptor)
                return
            os.close(descriptor)  # the file was deleted between opening and locking it
        raise OSError(errno.EBUSY, "the lock file is replaced repeatedly", str(path))

    @property
    def is_held(self) -> bool:
        """Whether the file is locked."""
        return self._descriptor is not None

    def release(self) -> None:
        """Release the lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def lock_owner(path: Path) -> str | None:
    """Return what is known of the process that holds a lock; None if no process holds it. Nothing is created."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        _lock(descriptor)
    except OSError as error:
        return None if error.errno in _UNSUPPORTED else _owner(descriptor)
    finally:
        os.close(descriptor)
    return None


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _forget_after_fork() -> None:
    # A forked child shares the lock. If it outlived its parent, the folder would stay locked.
    for lock in list(_open_locks):
        lock.release()


if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = 2**30  # beyond the content, which stays readable for other processes

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    os.register_at_fork(after_in_child=_forget_after_fork)


def _open(path: Path) -> int | None:
    """Open the lock file. Return None if it is missing on a file system that is read-only."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _write_owner(descriptor: int) -> None:
    owner = f"pid {os.getpid()} on {socket.gethostname()}, started {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, owner.encode())
    except OSError as error:  # a full or read-only disk: the lock is held nevertheless
        log.warning("owner not written to the lock file", reason=error.strerror)


def _owner(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return os.read(descriptor, _MAX_OWNER_BYTES).decode(errors="replace").strip() or "it left no name"
    except OSError:
        return "its name cannot be read"
