"""A bundle as one zip file, to be sent over the network or carried on a stick.

What comes in is not trusted: an archive's table of contents is bounded before it is parsed, its names come from a
closed list, and not a byte more is unpacked than allowed, whatever the archive claims.
"""

from __future__ import annotations

import stat
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from service.bundle.bundle import Bundle
from service.bundle.errors import BundleArchiveInvalid, BundleTooLarge, RepositoryNotWritable
from service.bundle.manifest import FILE_NAME, MANIFEST
from service.bundle.writer import install_bundle
from service.untrusted_zip import METHODS, BadZip, UnpackLimitExceeded, is_encrypted, open_zip, unpack

# A bundle has at most 103 files; each of their entries takes less than a hundred bytes.
MAX_DIRECTORY_BYTES = 64 * 1024
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
    try:
        with open_zip(archive, MAX_DIRECTORY_BYTES) as opened:
            entries = [entry for entry in opened.infolist() if entry.filename != "golden/"]
            _check_entries(entries, limit_bytes)
            contents: dict[str, bytes] = {}
            left = limit_bytes
            for entry in entries:
                contents[entry.filename] = unpack(opened, entry, left)
                left -= len(contents[entry.filename])
    except BadZip as error:
        raise BundleArchiveInvalid(str(error)) from error
    except UnpackLimitExceeded as error:
        raise BundleTooLarge(limit_bytes) from error
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
        if is_encrypted(entry):
            raise BundleArchiveInvalid(f"{name!r} is encrypted.")
        if entry.compress_type not in METHODS:
            raise BundleArchiveInvalid(f"{name!r} is compressed by another method than deflate.")
    if sum(entry.file_size for entry in entries) > limit_bytes:
        raise BundleTooLarge(limit_bytes)
