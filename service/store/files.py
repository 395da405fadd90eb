"""Images and anomaly maps on disk: `inspections/YYYY/MM/DD/<id>.<suffix>` in the data folder.

The folder is that of the time in the id, so a path follows from the id alone, whatever happened to the clock.

A file appears under its name only when it is complete, and before the inspection's row is committed. So a crash can
leave a file without a row, but never a row without its files. The caller decides when to wait until a written file
survives a power failure (`WrittenFile.sync`).
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import numpy.typing as npt
import structlog

from service.inspection.decoding.formats import SUFFIXES
from service.store.errors import ArtefactGone, StoreUnavailable
from service.store.ids import created_at, new_id
from service.store.records import InspectionRecord

Float32Map = npt.NDArray[np.float32]
MAP_SUFFIX = ".npy"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_CREATE_ATTEMPTS = 3
log = structlog.get_logger(__name__)


class ArtefactFiles:
    """The images and anomaly maps of inspections.

    Args:
        root: The folder `inspections` in the data folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def image_path(self, inspection_id: UUID, media_type: str) -> Path:
        """Return the path of an inspection's image."""
        return self._path(inspection_id, SUFFIXES[media_type])

    def map_path(self, inspection_id: UUID) -> Path:
        """Return the path of an inspection's anomaly map."""
        return self._path(inspection_id, MAP_SUFFIX)

    def write_image(self, inspection_id: UUID, media_type: str, data: bytes) -> WrittenFile:
        """Write an image as it was received.

        Raises:
            StoreUnavailable: It cannot be written.
        """
        return write_atomically(self.image_path(inspection_id, media_type), data, self.root.parent)

    def write_map(self, inspection_id: UUID, anomaly_map: Float32Map) -> WrittenFile:
        """Write an anomaly map.

        Args:
            inspection_id: The inspection.
            anomaly_map: float32 [h, w].

        Raises:
            StoreUnavailable: It cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(anomaly_map, np.float32), allow_pickle=False)
        return write_atomically(self.map_path(inspection_id), buffer.getvalue(), self.root.parent)

    def read_image(self, inspection_id: UUID, media_type: str) -> bytes:
        """Return the image as it was received.

        Raises:
            ArtefactGone: It is no longer stored.
            StoreUnavailable: It cannot be read.
        """
        return self._read(self.image_path(inspection_id, media_type), "image", inspection_id)

    def read_map(self, inspection_id: UUID) -> bytes:
        """Return the anomaly map as a `.npy` file, float32 [h, w].

        Raises:
            ArtefactGone: It is no longer stored.
            StoreUnavailable: It cannot be read.
        """
        return self._read(self.map_path(inspection_id), "map", inspection_id)

    def image_of(self, row: InspectionRecord) -> bytes:
        """Return the image of a stored inspection as it was received.

        Raises:
            ArtefactGone: It is no longer stored. The error contains when retention removed it.
            StoreUnavailable: It cannot be read.
        """
        try:
            return self.read_image(UUID(row.id), row.image_media_type)
        except ArtefactGone as error:
            raise ArtefactGone("image", row.id, row.artefacts_removed_at) from error

    def map_of(self, row: InspectionRecord) -> bytes:
        """Return the anomaly map of a stored inspection as a `.npy` file, float32 [h, w].

        Raises:
            ArtefactGone: It is no longer stored. The error contains when retention removed it.
            StoreUnavailable: It cannot be read.
        """
        try:
            return self.read_map(UUID(row.id))
        except ArtefactGone as error:
            raise ArtefactGone("map", row.id, row.artefacts_removed_at) from error

    def unlink(self, inspection_id: UUID, media_type: str) -> None:
        """Delete image and anomaly map. A file that does not exist is ignored.

        Raises:
            StoreUnavailable: A file cannot be deleted.
        """
        for path in (self.image_path(inspection_id, media_type), self.map_path(inspection_id)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreUnavailable(f"{path.name} cannot be deleted ({error.strerror})") from error

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

    def remove(self, inspection_id: UUID, media_type: str) -> None:
        """Delete the files of an inspection that failed before its row was committed. Errors are only logged."""
        for path in (self.image_path(inspection_id, media_type), self.map_path(inspection_id)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # an orphaned file only costs space; raising would hide the original error
                log.warning("file of a failed inspection not removed", path=str(path), reason=error.strerror)

    def _path(self, inspection_id: UUID, suffix: str) -> Path:
        return self._day(created_at(inspection_id)) / f"{inspection_id}{suffix}"

    def _day(self, moment: datetime) -> Path:
        return self.root / f"{moment:%Y}" / f"{moment:%m}" / f"{moment:%d}"

    def _read(self, path: Path, what: str, inspection_id: UUID) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise ArtefactGone(what, str(inspection_id)) from error
        except OSError as error:
            raise StoreUnavailable(f"{path.name} cannot be read ({error.strerror})") from error


class WrittenFile:
    """A complete file that may not survive a power failure yet.

    Args:
        path: The file.
        descriptor: Its open descriptor. `sync` and `close` close it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
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
            raise StoreUnavailable(f"{self.path.name} cannot be written ({error.strerror})") from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the file without waiting for the disk."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def write_atomically(path: Path, data: bytes, root: Path | None = None) -> WrittenFile:
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
    return WrittenFile(path, descriptor)


def probe_write(folder: Path) -> None:
    """Write a small file and delete it, to find out whether the folder can be written.

    Raises:
        StoreUnavailable: It cannot be written.
    """
    path = folder / f".write-probe.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(path, _NEW_FILE, 0o644)
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
            return os.open(path, _NEW_FILE, 0o644)
        except FileNotFoundError:  # the first file of a day, or retention removed the empty folder at this moment
            attempts -= 1
            if root is None or not attempts:
                raise
            for parent in reversed(path.relative_to(root).parents):
                if parent.name:
                    with contextlib.suppress(FileExistsError):
                        (root / parent).mkdir()


def _remove_partial(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError as error:  # must not hide the original error
        log.warning("incomplete file not removed", path=str(partial), reason=error.strerror)
