"""Permissions of files and folders that contain images, verdicts and hashes of passwords: none for other users."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

FILE_MODE = 0o640
FOLDER_MODE = 0o750


def make_folder(path: Path) -> None:
    """Create a folder, and the folders that contain it, if it does not exist.

    Raises:
        OSError: It cannot be created.
    """
    path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)


def is_open_to_others(folder: Path) -> bool:
    """Return whether other users of the machine may enter a folder or list it. False on Windows, which has no modes."""
    return sys.platform != "win32" and bool(folder.stat().st_mode & stat.S_IRWXO)


def make_private(path: Path) -> None:
    """Create an empty file that other users cannot read, or take their permissions for an existing file away.

    SQLite gives its files the permissions of the umask, and an earlier version left them.

    Raises:
        OSError: It cannot be created.
    """
    if not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, FILE_MODE))
        return
    with contextlib.suppress(OSError):  # it belongs to another user
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & stat.S_IRWXO:
            path.chmod(mode & ~stat.S_IRWXO)
