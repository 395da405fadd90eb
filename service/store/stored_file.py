"""Stored files that are read piece by piece, so that a large one is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.store.errors import ArtefactGone, StoreUnavailable
from service.store.records import InspectionRecord

PIECE_BYTES = 256 * 2**10


@dataclass(frozen=True)
class StoredFile:
    """A file of an inspection.

    It is opened for each piece: a client that reads slowly must not keep a file open.

    Attributes:
        path: The file.
        size: Its size in bytes.
        start: Its first `PIECE_BYTES` bytes, if it was opened for reading.
    """

    path: Path
    size: int
    start: bytes

    @classmethod
    def stat(cls, path: Path, what: str, record: InspectionRecord) -> StoredFile:
        """Return a file with its size, without reading it: `start` is empty.

        Args:
            path: The file.
            what: "image" or "map", for the error message.
            record: The inspection.

        Raises:
            ArtefactGone, StoreUnavailable: As for `open`.
        """
        with _named_failures(path, what, record):
            return cls(path, path.stat().st_size, b"")

    @classmethod
    def open(cls, path: Path, what: str, record: InspectionRecord) -> StoredFile:
        """Return a file with its first piece.

        Args:
            path: The file.
            what: "image" or "map", for the error message.
            record: The inspection.

        Raises:
            ArtefactGone: It is no longer stored. The error contains when retention removed it.
            StoreUnavailable: It cannot be read.
        """
        with _named_failures(path, what, record), path.open("rb") as file:
            start = file.read(PIECE_BYTES)
            return cls(path, file.seek(0, 2), start)

    def read(self, offset: int) -> bytes:
        """Return the next piece.

        Args:
            offset: Position of the piece in the file, in bytes.

        Raises:
            StoreUnavailable: It cannot be read, or the file was removed meanwhile.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                piece = file.read(PIECE_BYTES)
        except OSError as error:
            raise StoreUnavailable(f"{self.path.name} cannot be read ({error.strerror})") from error
        if not piece:
            raise StoreUnavailable(f"{self.path.name} is shorter than it was")
        return piece


@contextmanager
def _named_failures(path: Path, what: str, record: InspectionRecord) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ArtefactGone(what, record.id, record.artefacts_removed_at) from error
    except OSError as error:
        raise StoreUnavailable(f"{path.name} cannot be read ({error.strerror})") from error
