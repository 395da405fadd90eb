"""Images and anomaly maps of inspections, wherever they are stored.

The name of a file is `YYYY/MM/DD/<id>.<suffix>`. The day is that of the time in the id, so a name follows from the id
alone, whatever happened to the clock. An image of a training job is `training/<job>/<number>.<suffix>`.

A file can be read under its name only when it is complete, and it is written before the inspection's row is committed.
So a crash can leave a file without a row, but never a row without its files. After a power failure, the map of a row
may be missing, empty or incomplete, because maps are synced after the commit; the image is complete.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

import numpy as np
import structlog

from service.bundle.arrays import Float32Map
from service.inspection.decoding.formats import SUFFIXES
from service.store.artefacts.stored_file import PIECE_BYTES, StoredFile
from service.store.errors import ArtefactGone, StoreUnavailable
from service.store.identity import StorageGuard
from service.store.ids import created_at
from service.store.records import Artefacts, InspectionRecord

MAP_SUFFIX = ".npy"
log = structlog.get_logger(__name__)


class WrittenFile(ABC):
    """A complete file that may not survive a power failure yet.

    Attributes:
        name: The name of the file, for messages.
    """

    name: str

    @abstractmethod
    def sync(self) -> None:
        """Wait until the file survives a power failure, and close it.

        Raises:
            StoreUnavailable: The disk reports an error.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file without waiting for the disk."""


class ArtefactFiles(ABC):
    """The images and anomaly maps of inspections.

    Methods may be called from several threads. They block: never call them on the event loop.
    """

    @property
    def folder(self) -> Path | None:
        """The local folder of the files, if they are local: its disk may become full, or be unmounted."""
        return None

    @abstractmethod
    def prepare(self) -> None:
        """Make it possible to write the first file.

        Raises:
            StoreUnavailable: It is not possible.
        """

    @abstractmethod
    def watch(self, guard: StorageGuard) -> None:
        """Let a guard notice that the folder is replaced.

        Raises:
            OSError: It cannot be examined.
        """

    @abstractmethod
    def probe(self) -> None:
        """Write a small file and delete it, to find out whether files can be written.

        Raises:
            StoreUnavailable: They cannot be written.
        """

    @abstractmethod
    def require_writable(self) -> None:
        """Check that files can be written, as far as it is known without writing.

        Raises:
            StoreUnavailable: The last attempt failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Close connections, if there are any."""

    def write_image(self, inspection_id: UUID, media_type: str, data: bytes) -> WrittenFile:
        """Write an image as it was received.

        Raises:
            StoreUnavailable: It cannot be written.
        """
        return self._write(image_name(inspection_id, media_type), data)

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
        return self._write(map_name(inspection_id), buffer.getvalue())

    def image_of(self, record: InspectionRecord) -> bytes:
        """Return the image of a stored inspection as it was received.

        Raises:
            ArtefactGone: It is no longer stored. The error contains when retention removed it.
            StoreUnavailable: It cannot be read.
        """
        return self._read_for(image_name(UUID(record.id), record.image_media_type), "image", record)

    def map_of(self, record: InspectionRecord) -> Float32Map:
        """Return the anomaly map of a stored inspection, float32 [h, w].

        Raises:
            ArtefactGone: It is no longer stored, or damaged. The error contains when retention removed it.
            StoreUnavailable: It cannot be read.
        """
        data = self._read_for(map_name(UUID(record.id)), "map", record)
        try:
            anomaly_map: Float32Map = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:  # a power failure before it was synced left it empty or incomplete
            raise ArtefactGone("map", record.id, record.artefacts_removed_at) from error
        return anomaly_map

    def open_image(self, record: InspectionRecord, *, with_content: bool = True) -> StoredFile:
        """Return the image of a stored inspection, to be read piece by piece.

        Args:
            record: The inspection.
            with_content: Whether the first piece is read; otherwise, only the size is examined.

        Raises:
            ArtefactGone: It is no longer stored. The error contains when retention removed it.
            StoreUnavailable: It cannot be read.
        """
        return self._open(
            image_name(UUID(record.id), record.image_media_type), "image", record, with_content=with_content
        )

    def open_map(self, record: InspectionRecord, *, with_content: bool = True) -> StoredFile:
        """Return the anomaly map of a stored inspection, to be read piece by piece.

        Args:
            record: The inspection.
            with_content: As for `open_image`.

        Raises:
            ArtefactGone: It is no longer stored, or incomplete. The error contains when retention removed it.
            StoreUnavailable: It cannot be read.
        """
        file = self._open(map_name(UUID(record.id)), "map", record, with_content=with_content)
        # Only the content shows that a file is shorter than it was. Without it, one that is empty is noticed at least.
        if not (_is_complete(file.start, file.size) if with_content else file.size):
            raise ArtefactGone("map", record.id, record.artefacts_removed_at)
        return file

    def unlink(self, inspection_id: UUID, media_type: str) -> None:
        """Delete image and anomaly map. A file that does not exist is ignored.

        Raises:
            StoreUnavailable: A file cannot be deleted.
        """
        for name in (image_name(inspection_id, media_type), map_name(inspection_id)):
            self._delete(name)

    def unlink_all(self, items: Sequence[Artefacts]) -> dict[UUID, StoreUnavailable]:
        """Delete images and anomaly maps, at the same time if the file system can do that.

        Args:
            items: The inspections. Files that do not exist are ignored.

        Returns:
            Why a file cannot be deleted, by the inspection; the files of the others are deleted.
        """
        names = {
            name: item.inspection_id
            for item in items
            for name in (image_name(item.inspection_id, item.media_type), map_name(item.inspection_id))
        }
        return {names[name]: error for name, error in self._delete_all(list(names)).items()}

    def write_training_image(self, job_id: UUID, number: int, media_type: str, data: bytes) -> WrittenFile:
        """Write an image of a training job.

        Raises:
            StoreUnavailable: It cannot be written.
        """
        return self._write(training_image_name(job_id, number, media_type), data)

    def read_training_image(self, job_id: UUID, number: int, media_type: str) -> bytes:
        """Return an image of a training job.

        Raises:
            FileNotFoundError: It is no longer stored.
            StoreUnavailable: It cannot be read.
        """
        return self._read(training_image_name(job_id, number, media_type), 0, None)

    def remove_training_images(self, job_id: UUID, media_types: Mapping[int, str]) -> None:
        """Delete images of a training job. A file that does not exist is ignored.

        Args:
            job_id: The job.
            media_types: Media type by the number of the image.

        Raises:
            StoreUnavailable: A file cannot be deleted.
        """
        for number, media_type in media_types.items():
            self._delete(training_image_name(job_id, number, media_type))

    def remove(self, inspection_id: UUID, media_type: str) -> None:
        """Delete the files of an inspection that failed before its row was committed. Errors are only logged."""
        for name in (image_name(inspection_id, media_type), map_name(inspection_id)):
            try:
                self._delete(name)
            except StoreUnavailable as error:  # a file without a row only costs space; raising would hide the error
                log.warning("file of a failed inspection not removed", file=name, reason=error.reason)

    @abstractmethod
    def remove_empty_days(self, inspection_ids: Iterable[UUID]) -> None:
        """Delete the day folders of these inspections that are empty, where there are folders."""

    @abstractmethod
    def _write(self, name: str, data: bytes) -> WrittenFile:
        """Write a file that can be read under its name only when it is complete.

        Raises:
            StoreUnavailable: Nothing that can be read was written.
        """

    @abstractmethod
    def _read(self, name: str, start: int, length: int | None) -> bytes:
        """Return a part of a file; a shorter one at its end.

        Raises:
            FileNotFoundError: It does not exist.
            StoreUnavailable: It cannot be read.
        """

    @abstractmethod
    def _size(self, name: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            FileNotFoundError: It does not exist.
            StoreUnavailable: It cannot be examined.
        """

    @abstractmethod
    def _delete(self, name: str) -> None:
        """Delete a file. One that does not exist is ignored.

        Raises:
            StoreUnavailable: It cannot be deleted.
        """

    def _delete_all(self, names: Sequence[str]) -> dict[str, StoreUnavailable]:
        """Delete files. Return why one cannot be deleted, by its name."""
        failed = {}
        for name in names:
            try:
                self._delete(name)
            except StoreUnavailable as error:
                failed[name] = error
        return failed

    def _read_for(self, name: str, what: str, record: InspectionRecord) -> bytes:
        with _gone(what, record):
            return self._read(name, 0, None)

    def _open(self, name: str, what: str, record: InspectionRecord, *, with_content: bool) -> StoredFile:
        with _gone(what, record):
            if not with_content:
                return StoredFile(name, self._size(name), b"", self._read)
            start = self._read(name, 0, PIECE_BYTES)
            # The size of a small file follows from what was read, which saves a request to a server.
            size = len(start) if len(start) < PIECE_BYTES else self._size(name)
            return StoredFile(name, size, start, self._read)


@contextmanager
def _gone(what: str, record: InspectionRecord) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ArtefactGone(what, record.id, record.artefacts_removed_at) from error


def _is_complete(start: bytes, size: int) -> bool:
    """Return whether a `.npy` file has the size that its header states.

    Args:
        start: The first bytes of the file, with the whole header.
        size: Size of the file in bytes.
    """
    head = io.BytesIO(start)
    try:
        np.lib.format.read_magic(head)
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    except ValueError:
        return False
    return size == head.tell() + math.prod(shape) * dtype.itemsize


def image_name(inspection_id: UUID, media_type: str) -> str:
    """Return the name of an inspection's image."""
    return _name(inspection_id, SUFFIXES[media_type])


def map_name(inspection_id: UUID) -> str:
    """Return the name of an inspection's anomaly map."""
    return _name(inspection_id, MAP_SUFFIX)


def training_image_name(job_id: UUID, number: int, media_type: str) -> str:
    """Return the name of an image of a training job."""
    return f"training/{job_id}/{number:05d}{SUFFIXES[media_type]}"


def day_name(moment: datetime) -> str:
    """Return the name of the folder of a day."""
    return f"{moment:%Y}/{moment:%m}/{moment:%d}"


def _name(inspection_id: UUID, suffix: str) -> str:
    return f"{day_name(created_at(inspection_id))}/{inspection_id}{suffix}"
