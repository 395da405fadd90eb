"""Zip files from untrusted senders: entries that share bytes are refused."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from service.untrusted_zip import BadZip, open_zip, unpack

CENTRAL = struct.Struct("<4s4B4HL2L5H2L")


def zip_of(count: int, size: int = 2000) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number:03}.png", bytes([number % 256]) * size)
    return buffer.getvalue()


def repeated(count: int) -> bytes:
    """A zip file with one stored file and `count` entries in the directory that all refer to it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("000.png", bytes(60_000))
        (entry,) = archive.infolist()
        for number in range(1, count):
            copy = zipfile.ZipInfo("000.png")
            copy.CRC, copy.compress_size, copy.file_size = entry.CRC, entry.compress_size, entry.file_size
            copy.header_offset = entry.header_offset
            archive.filelist.append(copy)
            assert number
    return buffer.getvalue()


def shifted(data: bytes, entry: int, offset: int) -> bytes:
    """Move the offset of a directory entry by some bytes."""
    changed = bytearray(data)
    position = -1
    for _ in range(entry + 1):
        position = changed.index(b"PK\x01\x02", position + 1)
    (before,) = struct.unpack_from("<L", changed, position + 42)
    struct.pack_into("<L", changed, position + 42, before + offset)
    return bytes(changed)


def enlarged(data: bytes, entry: int, size: int) -> bytes:
    """Let a directory entry state a larger size, so that it reaches into what follows."""
    changed = bytearray(data)
    position = -1
    for _ in range(entry + 1):
        position = changed.index(b"PK\x01\x02", position + 1)
    struct.pack_into("<LL", changed, position + 20, size, size)
    return bytes(changed)


def read(data: bytes) -> list[bytes]:
    with open_zip(io.BytesIO(data), 10**6) as opened:
        return [unpack(opened, entry, 10**6) for entry in opened.infolist()]


def test_ordinary_archives_are_read() -> None:
    assert len(read(zip_of(40))) == 40
    assert read(b"#!/bin/sh\n" + zip_of(2)) == read(zip_of(2)), "data before the archive is no overlap"
    assert read(zip_of(3, size=0)) == [b""] * 3
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, archive.open("big", "w", force_zip64=True) as file:
        file.write(b"x" * 100)
    assert read(stream.getvalue()) == [b"x" * 100], "as numpy writes them"


@pytest.mark.parametrize(
    "data",
    [
        repeated(400),
        repeated(2),
        shifted(zip_of(3), entry=2, offset=-2030 - 7),
        enlarged(zip_of(3), entry=0, size=4000),
        enlarged(zip_of(3), entry=2, size=2100),
    ],
)
def test_overlapping_entries_are_refused(data: bytes) -> None:
    with pytest.raises(BadZip, match="overlap"):
        read(data)


def test_entry_without_a_local_header_is_refused() -> None:
    with pytest.raises(BadZip, match="local header"):
        read(shifted(zip_of(2), entry=1, offset=5))


@pytest.mark.parametrize("cut", [1, 10, 22, 23, 100])
def test_truncated_archive_is_called_truncated(cut: int) -> None:
    inner = zip_of(2)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("golden/00.npz", inner)
    for data in (zip_of(3), stream.getvalue()):
        with pytest.raises(BadZip, match="it is truncated"):
            read(data[:-cut])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"%PDF-1.7", "not a zip file but a PDF document"),
        (b"\x1f\x8b\x08\x00", "not a zip file but a gzip file"),
        (b"\x00\x01\x02\xff", "it is not a zip file"),
    ],
)
def test_file_of_another_format_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(BadZip, match=reason):
        read(data)


def test_encrypted_entry_is_named() -> None:
    data = bytearray(zip_of(1))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    with pytest.raises(BadZip, match="an entry is encrypted"):
        read(bytes(data))
