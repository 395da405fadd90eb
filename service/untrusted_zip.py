"""Read zip files from untrusted senders.

The size of the central directory is checked before it is parsed, and no two entries may share bytes of the file. The
sizes that entries state are not trusted: unpacking stops at a limit on the bytes that come out.
"""

from __future__ import annotations

import logging
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from service.file_formats import HEAD_BYTES, detect

_log = logging.getLogger(__name__)
MEDIA_TYPE = "application/zip"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK_BYTES = 2**20
_END_RECORD = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT_BYTES = 65535
# A local file header: signature, 11 fields that are not needed here, length of the name, length of the extra field.
_LOCAL_HEADER = struct.Struct("<4s22x2H")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 0x1
# zipfile raises RuntimeError for an encrypted entry.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError, ValueError)


class BadZip(Exception):
    """The data is not a zip file, or a damaged one. The text completes a sentence that states what is wrong."""


class UnpackLimitExceeded(Exception):
    """The content is larger than the limit once unpacked."""


@contextmanager
def open_zip(archive: IO[bytes], max_directory_bytes: int) -> Iterator[zipfile.ZipFile]:
    """Open a zip file.

    Args:
        archive: The file, seekable.
        max_directory_bytes: Largest central directory to accept. `zipfile` reads all of it into memory.

    Yields:
        The opened file.

    Raises:
        BadZip: The data is not a zip file, is damaged, has a larger central directory, or has entries that overlap.
    """
    _check_directory(archive, max_directory_bytes)
    with _named_damage():
        opened = zipfile.ZipFile(archive)
    with opened:
        _check_overlap(archive, opened)
        yield opened


def is_encrypted(entry: zipfile.ZipInfo) -> bool:
    """Return whether an entry is encrypted."""
    return bool(entry.flag_bits & _ENCRYPTED)


def unpack(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, limit_bytes: int) -> bytes:
    """Unpack one entry. The bytes that come out are counted; the size that the archive states is ignored.

    Args:
        opened: The opened zip file.
        entry: The entry to unpack.
        limit_bytes: Largest number of bytes to return.

    Raises:
        UnpackLimitExceeded: The entry holds more than `limit_bytes`.
        BadZip: The entry is damaged.
    """
    content = bytearray()
    with _named_damage(), opened.open(entry) as file:
        while chunk := file.read(min(_CHUNK_BYTES, limit_bytes + 1)):
            content += chunk
            if len(content) > limit_bytes:
                raise UnpackLimitExceeded
    return bytes(content)


@contextmanager
def _named_damage() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        _log.debug("The zip file cannot be read.", exc_info=error)
        raise BadZip(_describe(error)) from error


def _describe(error: Exception) -> str:
    """Return what is wrong with a zip file. The message of the library is for the log."""
    match error:
        case EOFError():
            return "it is truncated: an entry ends too early."
        case NotImplementedError():
            return "an entry is compressed with a method that is not supported; use deflate."
        case UnicodeDecodeError():
            return "the name of an entry is not valid UTF-8."
        case zlib.error():
            return "it is damaged: the data of an entry cannot be decompressed."
        case zipfile.BadZipFile() if "CRC" in str(error):
            return "it is damaged: the checksum (CRC-32) of an entry is wrong."
        case RuntimeError():
            return "an entry is encrypted."
    return "it is damaged: its directory of entries does not match its content."


def _check_directory(archive: IO[bytes], max_directory_bytes: int) -> None:
    size = archive.seek(0, 2)
    archive.seek(max(0, size - _END_RECORD.size - _MAX_COMMENT_BYTES))
    tail = archive.read()
    archive.seek(0)
    start = tail.rfind(_END_SIGNATURE)
    if start < 0 or len(tail) - start < _END_RECORD.size:
        raise BadZip(_describe_incomplete(archive, size))
    directory_bytes, directory_start = _END_RECORD.unpack_from(tail, start)[5:7]
    # A zip64 archive has a locator record right before the end record.
    is_zip64 = tail[max(0, start - 20) : start].startswith(b"PK\x06\x07")
    if directory_bytes > max_directory_bytes or is_zip64:
        raise BadZip(
            "its central directory is larger than allowed (too many files, too long names, or the zip64 format)."
        )
    _require_own_end(archive, size - len(tail) + start, directory_start + directory_bytes)


def _require_own_end(archive: IO[bytes], directory_end: int, stated_end: int) -> None:
    """Refuse a truncated archive whose last complete entry is itself a zip file, such as an `.npz` file.

    The end record that is found then belongs to the inner file, which begins later than the archive.
    """
    head = archive.read(len(_LOCAL_SIGNATURE))
    archive.seek(0)
    if head == _LOCAL_SIGNATURE and stated_end < directory_end:
        raise BadZip("it is truncated: it begins as a zip file, but its end is missing.")


def _describe_incomplete(archive: IO[bytes], size: int) -> str:
    """Return what is wrong with a file that has no end record."""
    head = archive.read(HEAD_BYTES)
    archive.seek(0)
    if not size:
        return "it is empty."
    if head.startswith((_LOCAL_SIGNATURE, _END_SIGNATURE)):
        return f"it is truncated: it begins as a zip file, but its end is missing after {size} bytes."
    found = detect(head)
    return f"it is not a zip file but {found.name}." if found else "it is not a zip file."


def _check_overlap(archive: IO[bytes], opened: zipfile.ZipFile) -> None:
    """Refuse archives in which two entries share bytes: a small file would become any number of large ones.

    Raises:
        BadZip: Two entries overlap, or an entry reaches into the central directory.
    """
    end, previous = 0, ""
    for entry in sorted(opened.infolist(), key=lambda item: item.header_offset):
        if entry.header_offset < end:
            raise BadZip(f"its entries {previous[:100]!r} and {entry.filename[:100]!r} overlap.")
        archive.seek(entry.header_offset)
        header = archive.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_SIGNATURE):
            raise BadZip(f"it is damaged: {entry.filename[:100]!r} has no local header.")
        _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        end = entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes + entry.compress_size
        previous = entry.filename
    if end > opened.start_dir:
        raise BadZip(f"its entry {previous[:100]!r} overlaps the central directory.")
