"""Stored files that are read piece by piece, so that a large one is never in memory as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from service.store.errors import StoreUnavailable

PIECE_BYTES = 256 * 2**10


class ReadPart(Protocol):
    """A function that reads a part of a file by its name."""

    def __call__(self, name: str, start: int, length: int | None) -> bytes:
        """Return a part of the file; a shorter one at its end."""


@dataclass(frozen=True)
class StoredFile:
    """A file of an inspection.

    It is opened for each piece: a client that reads slowly must not keep a file or a connection open.

    Attributes:
        name: The name of the file.
        size: Its size in bytes.
        start: Its first `PIECE_BYTES` bytes, if it was opened for reading.
        read_part: Reads a part of it.
    """

    name: str
    size: int
    start: bytes
    read_part: ReadPart

    def read(self, offset: int) -> bytes:
        """Return the next piece.

        Args:
            offset: Position of the piece in the file, in bytes.

        Raises:
            StoreUnavailable: It cannot be read, or the file was removed meanwhile.
        """
        try:
            piece = self.read_part(self.name, offset, PIECE_BYTES)
        except FileNotFoundError as error:
            raise StoreUnavailable(f"{last_part(self.name)} was removed while it was read") from error
        if not piece:
            raise StoreUnavailable(f"{last_part(self.name)} is shorter than it was")
        return piece


def last_part(name: str) -> str:
    """Return the name of a file without its folders, for messages."""
    return name.rpartition("/")[2]
