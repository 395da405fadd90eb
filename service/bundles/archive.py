"""A bundle as one zip file, to be sent over the network or carried on a stick.

What comes in is not trusted: an archive's table of contents is bounded before it is parsed, its names come from a
closed list, and not a byte more is unpacked than allowed, whatever the archive claims.
"""

from __future__ import annotations

import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from service.bundle import FILE_NAME, MANIFEST, Bundle
from service.bundle_writer import install_bundle
from service.bundles.errors import BundleArchiveInvalid, BundleTooLarge, RepositoryNotWritable

MEDIA_TYPE = "application/zip"
# A bundle has at most 103 files; each of their entries takes less than a hundred bytes.
MAX_DIRECTORY_BYTES = 64 * 1024
_CHUNK_BYTES = 2**20
_END_RECORD = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT_BYTES = 65535
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# One moment for every file: the same bundle always makes the same archive.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def open_spool(models: Path) -> IO[bytes]:
    """A file for an archive that is being received. It has no name, so whatever happens, nothing of it stays.

    Args:
        models: The model repository. It lies there, because that is where the bundle must fit.

    Raises:
        OSError: The repository cannot be written.
    """
    models.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=models)


def import_archive(models: Path, product: str, archive: IO[bytes], limit_bytes: int) -> tuple[Bundle, bool]:
    """Put an archived bundle into the model repository, all of it or nothing.

    Args:
        models: The model repository.
        product: Whose bundle it has to be.
        archive: The zip file, seekable.
        limit_bytes: Most bytes that the bundle may have when it is unpacked.

    Returns:
        The bundle, and whether it is new: False where an intact one with this digest was there already.

    Raises:
        BundleArchiveInvalid, BundleTooLarge: The archive is not acceptable.
        BundleInvalid: What is in it would not be served.
        RepositoryNotWritable: The disk is full or read-only.
    """
    contents = read_archive(archive, limit_bytes)
    try:
        return install_bundle(models, product, contents)
    except OSError as error:
        raise RepositoryNotWritable(models, error.strerror) from error


def read_archive(archive: IO[bytes], limit_bytes: int) -> dict[str, bytes]:
    """The files of an archived bundle by their names.

    Raises:
        BundleArchiveInvalid: It is no zip file, is damaged, or holds what no bundle holds.
        BundleTooLarge: It states, or turns out to hold, more than `limit_bytes`.
    """
    _check_directory(archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if entry.filename != "golden/"]
            _check_entries(entries, limit_bytes)
            contents: dict[str, bytes] = {}
            left = limit_bytes
            for entry in entries:
                contents[entry.filename] = _unpack(opened, entry, left, limit_bytes)
                left -= len(contents[entry.filename])
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, ValueError) as error:
        raise BundleArchiveInvalid(f"it is damaged or no zip file ({error}).") from error
    if MANIFEST not in contents:
        raise BundleArchiveInvalid(f"it holds no {MANIFEST}.")
    return contents


def write_archive(bundle: Bundle, archive: IO[bytes]) -> None:
    """Write a bundle as a zip file; the same bundle gives the same bytes.

    Raises:
        BundleIntegrity: A file changed since the bundle was loaded.
    """
    with zipfile.ZipFile(archive, "w") as opened:
        for name in (MANIFEST, *sorted(bundle.manifest.files)):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            opened.writestr(entry, bundle.read_file(name))


def _check_directory(archive: IO[bytes]) -> None:
    """Refuse a table of contents that no bundle needs; the library would read all of it into memory."""
    size = archive.seek(0, 2)
    archive.seek(max(0, size - _END_RECORD.size - _MAX_COMMENT_BYTES))
    tail = archive.read()
    archive.seek(0)
    start = tail.rfind(_END_SIGNATURE)
    if start < 0 or len(tail) - start < _END_RECORD.size:
        raise BundleArchiveInvalid("it is no zip file.")
    directory_bytes = _END_RECORD.unpack_from(tail, start)[5]
    # The larger form of the directory announces itself right before the end record.
    is_zip64 = tail[max(0, start - 20) : start].startswith(b"PK\x06\x07")
    if directory_bytes > MAX_DIRECTORY_BYTES or is_zip64:
        raise BundleArchiveInvalid("its table of contents is larger than any bundle's.")


def _check_entries(entries: list[zipfile.ZipInfo], limit_bytes: int) -> None:
    names = set()
    for entry in entries:
        name = entry.filename
        # The name as it was written, too: the library cuts at a NUL and turns backslashes around on some systems.
        if name != entry.orig_filename or not (name == MANIFEST or FILE_NAME.fullmatch(name)):
            raise BundleArchiveInvalid(f"it holds {entry.orig_filename[:200]!r}, which no bundle has.")
        if name in names:
            raise BundleArchiveInvalid(f"it holds {name!r} twice.")
        names.add(name)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in {0, stat.S_IFREG}:
            raise BundleArchiveInvalid(f"{name!r} is a link or something else that is no plain file.")
        if entry.flag_bits & _ENCRYPTED:
            raise BundleArchiveInvalid(f"{name!r} is encrypted.")
        if entry.compress_type not in _METHODS:
            raise BundleArchiveInvalid(f"{name!r} is compressed by another method than deflate.")
    if sum(entry.file_size for entry in entries) > limit_bytes:
        raise BundleTooLarge(limit_bytes)


def _unpack(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, left: int, limit_bytes: int) -> bytes:
    """One file's content. What an archive states about sizes is a claim; what is counted are the bytes."""
    content = bytearray()
    with opened.open(entry) as file:
        while chunk := file.read(_CHUNK_BYTES):
            content += chunk
            if len(content) > left:
                raise BundleTooLarge(limit_bytes)
    return bytes(content)
