"""The folders that inspected files are moved to, with a JSON file beside each image."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.cli.watching.files import DroppedFile, Incomplete

TARGETS = ("pass", "review", "fail", "invalid", "refused")
_NUMBERS = 20
_MAX_NAME_BYTES = 200
_MAX_RECORD_BYTES = 16 * 2**20
KEY = "idempotency_key"


class TargetFolders:
    """The folders `pass`, `review`, `fail`, `invalid` and `refused` in the watched folder.

    The record is written before the image is moved. After a crash between both, the record is found again by its key.

    Args:
        folder: The watched folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self) -> None:
        """Create the folders.

        Raises:
            OSError: A folder cannot be created or used: it is a link, or on another file system, so that moving a file
                into it could not be atomic.
        """
        for name in TARGETS:
            path = self._folder / name
            path.mkdir(exist_ok=True)
            if path.is_symlink():
                raise OSError(errno.ELOOP, "it is a link; make it a folder", str(path))
            if path.stat().st_dev != self._folder.stat().st_dev:
                raise OSError(errno.EXDEV, "it is on another file system than the watched folder", str(path))
            if not os.access(path, os.W_OK | os.X_OK):
                raise OSError(errno.EACCES, "files cannot be created in it", str(path))

    def find(self, file: DroppedFile, key: str) -> tuple[Path, dict[str, Any]] | None:
        """Return where a file of an earlier run belongs, and its record; None if there is no record of it.

        Args:
            file: The file, which was not moved.
            key: Its idempotency key.

        Raises:
            OSError: A folder cannot be read.
        """
        for name in TARGETS:
            for image in _names(self._folder / name, file.name, key):
                record = record_path(image)
                if not os.path.lexists(record):
                    if not os.path.lexists(image):
                        break  # no later name was used
                elif not os.path.lexists(image) and (found := _read_record(record)).get(KEY) == key:
                    return image, found
        return None

    def store(self, target: str, file: DroppedFile, record: Mapping[str, Any]) -> Path:
        """Write the record of a file, and return where the file belongs.

        Args:
            target: One of `TARGETS`.
            file: The file.
            record: JSON object with the member `KEY`.

        Raises:
            OSError: The record cannot be written.
        """
        key = str(record[KEY])
        for image in _names(self._folder / target, file.name, key):
            path = record_path(image)
            if os.path.lexists(image) or os.path.lexists(path):
                continue
            self._make_parent(image)
            temporary = path.with_name(f".{key[-32:]}.tmp")
            try:
                _write(temporary, json.dumps(record, indent=2).encode() + b"\n")
                temporary.rename(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            return image
        raise OSError(errno.EEXIST, "every name for it is in use", str(self._folder / target / file.name))

    def move(self, file: DroppedFile, image: Path) -> None:
        """Move a file to its place.

        If it was replaced since it was read, its verdict does not belong to it; it stays, and its record is removed.

        Raises:
            Incomplete: The file changed or vanished.
            OSError: It cannot be moved. The record stays, and a later attempt finds it.
        """
        try:
            is_unchanged = file.is_unchanged(file.path.lstat())
        except FileNotFoundError:
            is_unchanged = False
        if not is_unchanged:
            record_path(image).unlink(missing_ok=True)
            raise Incomplete
        if os.path.lexists(image):
            raise OSError(errno.EEXIST, "a file with this name exists already", str(image))
        file.path.rename(image)
        if not file.is_unchanged(image.lstat()):  # it was replaced in the moment before it was moved
            if not os.path.lexists(file.path):
                image.rename(file.path)
            record_path(image).unlink(missing_ok=True)
            raise Incomplete

    def _make_parent(self, image: Path) -> None:
        if not image.parent.resolve().is_relative_to(self._folder.resolve()):
            raise OSError(errno.ELOOP, "it leads out of the watched folder through a link", str(image.parent))
        image.parent.mkdir(parents=True, exist_ok=True)


def record_path(image: Path) -> Path:
    """Return the path of the record beside a moved image."""
    return image.with_name(f"{image.name}.json")


def _names(folder: Path, name: str, key: str) -> Iterator[Path]:
    """Yield paths for a file in the order in which they are tried."""
    path = folder / name
    digits = key[-12:]
    stem = os.fsdecode(os.fsencode(path.stem)[: _MAX_NAME_BYTES - len(os.fsencode(path.suffix))])
    if stem == path.stem:
        yield path
    else:  # the name of the record would be longer than file systems allow
        stem = f"{stem}-{digits}"
        yield path.with_name(f"{stem}{path.suffix}")
    for number in range(1, _NUMBERS):
        yield path.with_name(f"{stem}-{number}{path.suffix}")
    # Cameras that count from the beginning again make many files of one name; trying all numbers would take long.
    for number in range(_NUMBERS):
        yield path.with_name(f"{stem}-{digits}{f'-{number}' if number else ''}{path.suffix}")


def _write(path: Path, content: bytes) -> None:
    """Write a file to the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _read_record(path: Path) -> dict[str, Any]:
    """Return a record; an empty one if the file is not a record."""
    try:
        with path.open("rb") as stream:
            found = json.loads(stream.read(_MAX_RECORD_BYTES))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
