"""Bundles as zip files, for upload, download and transfer by hand.

An incoming archive is not trusted: its central directory is limited in size before it is parsed, only the file names of
a bundle are accepted, and unpacking stops at a limit on the bytes that come out.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from service.bundle.bundle import MAX_CARD_BYTES, MAX_MANIFEST_BYTES, Bundle
from service.bundle.errors import BundleArchiveInvalid, BundleTooLarge, NotEnoughSpace, RepositoryNotWritable
from service.bundle.manifest import CARD, FILE_NAME, MANIFEST, MODEL
from service.bundle.writer import install_bundle
from service.untrusted_zip import METHODS, BadZip, UnpackLimitExceeded, is_encrypted, open_zip, unpack

# A bundle has at most 104 files, and each directory entry takes less than a hundred bytes.
MAX_DIRECTORY_BYTES = 64 * 1024
_MAX_BYTES = {MANIFEST: MAX_MANIFEST_BYTES, CARD: MAX_CARD_BYTES}
# One timestamp for every file, so that the same bundle always gives the same archive.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def open_spool(models: Path) -> IO[bytes]:
    """Open an unnamed temporary file for an archive that is being received.

    The file has no name, so nothing of it remains, whatever happens.

    Args:
        models: The model repository. The file is created there, because the bundle has to fit on the same file system.

    Raises:
        OSError: The repository cannot be written.
    """
    models.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=models)


def check_space(models: Path, needed_bytes: int, reserve_bytes: int, promised_bytes: int = 0) -> None:
    """Check that the disk of the model repository has space.

    Args:
        models: The model repository. It exists.
        needed_bytes: Space that is needed.
        reserve_bytes: Space that has to stay free.
        promised_bytes: Space that is free now and that others will use.

    Raises:
        NotEnoughSpace: There is too little.
        OSError: The disk cannot be examined.
    """
    free = shutil.disk_usage(models).free - promised_bytes
    if free < needed_bytes + reserve_bytes:
        raise NotEnoughSpace(models, needed_bytes, free, reserve_bytes)


def import_archive(
    models: Path,
    product: str,
    archive: IO[bytes],
    limit_bytes: int,
    *,
    reserve_bytes: int = 0,
    publishing: Callable[[Bundle], AbstractContextManager[object]] = nullcontext,
) -> tuple[Bundle, bool]:
    """Install an archived bundle in the model repository. Either all of it is installed or nothing.

    Args:
        models: The model repository.
        product: The product that the bundle must belong to.
        archive: The zip file, seekable.
        limit_bytes: Largest allowed size of the unpacked bundle.
        reserve_bytes: Disk space that has to stay free.
        publishing: As for `install_bundle`.

    Returns:
        The bundle, and whether it is new: False if an intact bundle with this digest was already installed.

    Raises:
        BundleArchiveInvalid, BundleTooLarge: The archive is not acceptable.
        BundleInvalid: The bundle in the archive would not be served.
        NotEnoughSpace: The disk has too little space for it.
        RepositoryNotWritable: The disk is full or read-only.
    """
    contents = read_archive(archive, limit_bytes)
    try:
        models.mkdir(parents=True, exist_ok=True)
        check_space(models, sum(map(len, contents.values())), reserve_bytes)
        return install_bundle(models, product, contents, publishing)
    except OSError as error:
        raise RepositoryNotWritable(models, error.strerror) from error


def read_archive(archive: IO[bytes], limit_bytes: int) -> dict[str, bytes]:
    """Read the files of an archived bundle.

    Args:
        archive: The zip file, seekable.
        limit_bytes: Largest allowed size of all files together.

    Returns:
        The content of every file by its name.

    Raises:
        BundleArchiveInvalid: The file is not a zip file, is damaged, or contains a file that no bundle has.
        BundleTooLarge: The archive states, or turns out to contain, more than `limit_bytes`.
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
    except MemoryError as error:
        raise BundleArchiveInvalid("unpacking it needs more memory than is available.") from error
    for name in (MANIFEST, MODEL, CARD):
        if name not in contents:
            raise BundleArchiveInvalid(f"{name} is missing.")
    return contents


def write_archive(bundle: Bundle, archive: IO[bytes]) -> None:
    """Write a bundle as a zip file. The same bundle gives the same bytes.

    Raises:
        BundleIntegrity: A file has changed since the bundle was loaded.
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
        # The original name is checked, too: zipfile cuts names at a NUL byte and replaces backslashes on some systems.
        if name != entry.orig_filename or not (name == MANIFEST or FILE_NAME.fullmatch(name)):
            raise BundleArchiveInvalid(f"it contains {entry.orig_filename[:200]!r}, which is not a file of a bundle.")
        if name in names:
            raise BundleArchiveInvalid(f"it contains {name!r} twice.")
        names.add(name)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in {0, stat.S_IFREG}:
            raise BundleArchiveInvalid(f"{name!r} is not a regular file but, for example, a link.")
        if is_encrypted(entry):
            raise BundleArchiveInvalid(f"{name!r} is encrypted.")
        if entry.compress_type not in METHODS:
            raise BundleArchiveInvalid(f"{name!r} is compressed with a method other than deflate.")
        # zipfile unpacks no more than the size that the archive states.
        if name in _MAX_BYTES and entry.file_size > _MAX_BYTES[name]:
            raise BundleArchiveInvalid(f"{name!r} is larger than {_MAX_BYTES[name]} bytes.")
    if sum(entry.file_size for entry in entries) > limit_bytes:
        raise BundleTooLarge(limit_bytes)
