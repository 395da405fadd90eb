"""Images and anomaly maps in a folder: `inspections/YYYY/MM/DD/<id>.<suffix>` in the data folder, by default."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import structlog

from service.store.artefacts.files import ArtefactFiles, WrittenFile, day_name
from service.store.errors import StoreUnavailable
from service.store.identity import StorageGuard
from service.store.ids import created_at, new_id
from service.store.permissions import FILE_MODE, FOLDER_MODE, make_folder

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_CREATE_ATTEMPTS = 3
log = structlog.get_logger(__name__)


class LocalFiles(ArtefactFiles):
    """Files in a folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def folder(self) -> Path | None:
        """The folder."""
        return self.root

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            StoreUnavailable: It cannot be created.
        """
        try:
            make_folder(self.root)
        except OSError as error:
            raise StoreUnavailable(f"{self.root} cannot be created ({error.strerror})") from error

    def watch(self, guard: StorageGuard) -> None:
        """Let a guard notice that another file system has the place of the folder.

        Raises:
            OSError: It does not exist.
        """
        guard.watch(self.root, "the folder of images and maps", is_replaceable=True)

    def probe(self) -> None:
        """Write a small file and delete it.

        Raises:
            StoreUnavailable: The folder cannot be written.
        """
        probe_write(self.root if self.root.exists() else self.root.parent)

    def require_writable(self) -> None:
        """Do nothing: a write to a disk fails at once."""

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def remove_empty_days(self, inspection_ids: Iterable[UUID]) -> None:
        """Delete the day folders of these inspections that are empty.

        The folders of today and of yesterday are kept, because new files may still be written to them. The same
        applies to the day of new ids, which is a later one if the clock was set back.
        """
        now = datetime.now(UTC)
        in_use = {self._day(now), self._day(now - timedelta(days=1)), self._day(created_at(new_id()))}
        in_use |= {folder for day in in_use for folder in day.parents}
        for day in {self._day(created_at(inspection_id)) for inspection_id in inspection_ids}:
            for folder in (day, day.parent, day.parent.parent):
                if folder in in_use:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break  # not empty

    def remove_training_images(self, job_id: UUID, media_types: Mapping[int, str]) -> None:
        """Delete images of a training job, and its folder if it is empty then.

        Args:
            job_id: The job.
            media_types: Media type by the number of the image.

        Raises:
            StoreUnavailable: A file cannot be deleted.
        """
        super().remove_training_images(job_id, media_types)
        with contextlib.suppress(OSError):  # not empty, or it does not exist
            (self.root / "training" / str(job_id)).rmdir()

    def _day(self, moment: datetime) -> Path:
        return self.root / day_name(moment)

    def _write(self, name: str, data: bytes) -> WrittenFile:
        return write_atomically(self.root / name, data, self.root.parent)

    def _read(self, name: str, start: int, length: int | None) -> bytes:
        path = self.root / name
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(-1 if length is None else length)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnavailable(f"{path.name} cannot be read ({error.strerror})") from error

    def _size(self, name: str) -> int:
        path = self.root / name
        try:
            return path.stat().st_size
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnavailable(f"{path.name} cannot be read ({error.strerror})") from error

    def _delete(self, name: str) -> None:
        path = self.root / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"{path.name} cannot be deleted ({error.strerror})") from error


class WrittenLocalFile(WrittenFile):
    """A complete file in a folder.

    Args:
        path: The file.
        descriptor: Its open descriptor. `sync` and `close` close it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.name = path.name
        self._descriptor: int | None = descriptor

    def sync(self) -> None:
        """Wait until content and name are on disk, and close the file.

        Raises:
            StoreUnavailable: The disk reports an error.
        """
        if self._descriptor is None:
            return
        try:
            # After the rename, so that journaling file systems commit the name together with the content.
            os.fsync(self._descriptor)
        except OSError as error:
            raise StoreUnavailable(f"{self.name} cannot be written ({error.strerror})") from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the file without waiting for the disk."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def write_atomically(path: Path, data: bytes, root: Path | None = None) -> WrittenLocalFile:
    """Write a file that appears under its name only when it is complete.

    Args:
        path: The file.
        data: Its content.
        root: Missing folders below this one are created, but never this folder itself: if it was deleted or unmounted,
            a new one would hide it.

    Raises:
        StoreUnavailable: The disk is full, read-only or missing. Nothing of the file is left.
    """
    # A random name, so that two writers never share a partial file.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = _create(partial, root)
        try:
            view = memoryview(data)
            while view:  # os.write may write less than requested, for example if the disk is almost full
                view = view[os.write(descriptor, view) :]
            partial.rename(path)
        except BaseException:
            os.close(descriptor)
            _remove_partial(partial)
            raise
    except OSError as error:
        raise StoreUnavailable(f"{path.name} cannot be written ({error.strerror})") from error
    return WrittenLocalFile(path, descriptor)


def probe_write(folder: Path) -> None:
    """Write a small file and delete it, to find out whether the folder can be written.

    Raises:
        StoreUnavailable: It cannot be written.
    """
    path = folder / f".write-probe.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(path, _NEW_FILE, FILE_MODE)
        try:
            os.write(descriptor, bytes(4096))
        finally:
            os.close(descriptor)
            path.unlink()
    except OSError as error:
        raise StoreUnavailable(f"{folder} cannot be written ({error.strerror})") from error


def _create(path: Path, root: Path | None) -> int:
    """Create a file, and its missing parent folders below `root`. Return its descriptor."""
    attempts = _CREATE_ATTEMPTS
    while True:
        try:
            return os.open(path, _NEW_FILE, FILE_MODE)
        except FileNotFoundError:  # the first file of a day, or retention removed the empty folder at this moment
            attempts -= 1
            if root is None or not attempts:
                raise
            for parent in reversed(path.relative_to(root).parents):
                if parent.name:
                    with contextlib.suppress(FileExistsError):
                        (root / parent).mkdir(FOLDER_MODE)


def _remove_partial(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError as error:  # must not hide the original error
        log.warning("incomplete file not removed", path=str(partial), reason=error.strerror)
