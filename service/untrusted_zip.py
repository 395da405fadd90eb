"""Reading a zip file that somebody sent: nothing that it says about itself is believed.

Its table of contents is bounded before it is parsed, and not a byte more is unpacked than allowed, whatever it claims.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

MEDIA_TYPE = "application/zip"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK_BYTES = 2**20
_END_RECORD = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT_BYTES = 65535
_ENCRYPTED = 0x1
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, ValueError)


class BadZip(Exception):
    """It is no zip file, or a damaged one; the text says what, as the end of a sentence."""


class UnpackLimitExceeded(Exception):
    """It unpacks to more than it may."""


@contextmanager
def open_zip(archive: IO[bytes], max_directory_bytes: int) -> Iterator[zipfile.ZipFile]:
    """Open a zip file.

    Args:
        archive: The file, seekable.
        max_directory_bytes: Largest table of contents. The library reads all of it into memory.

    Raises:
        BadZip: It is no zip file, is damaged, or has a larger table of contents.
    """
    _check_directory(archive, max_directory_bytes)
    with _named_damage(), zipfile.ZipFile(archive) as opened:
        yield opened


def is_encrypted(entry: zipfile.ZipInfo) -> bool:
    return bool(entry.flag_bits & _ENCRYPTED)


def unpack(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, limit_bytes: int) -> bytes:
    """One file's content. What an archive states about sizes is a claim; what is counted are the bytes.

    Raises:
        UnpackLimitExceeded: There are more than `limit_bytes`.
        BadZip: The file is damaged.
    """
    content = bytearray()
    with _named_damage(), opened.open(entry) as file:
        while chunk := file.read(_CHUNK_BYTES):
            content += chunk
            if len(content) > limit_bytes:
                raise UnpackLimitExceeded
    return bytes(content)


@contextmanager
def _named_damage() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise BadZip(f"it is damaged or no zip file ({error}).") from error


def _check_directory(archive: IO[bytes], max_directory_bytes: int) -> None:
    size = archive.seek(0, 2)
    archive.seek(max(0, size - _END_RECORD.size - _MAX_COMMENT_BYTES))
    tail = archive.read()
    archive.seek(0)
    start = tail.rfind(_END_SIGNATURE)
    if start < 0 or len(tail) - start < _END_RECORD.size:
        raise BadZip("it is no zip file.")
    directory_bytes = _END_RECORD.unpack_from(tail, start)[5]
    # The larger form of the directory announces itself right before the end record.
    is_zip64 = tail[max(0, start - 20) : start].startswith(b"PK\x06\x07")
    if directory_bytes > max_directory_bytes or is_zip64:
        raise BadZip("its table of contents is larger than any that is read.")
