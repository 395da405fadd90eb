"""Read the files of a bundle, and find those that differ from its manifest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from service.bundle.errors import BundleIntegrity, BundleSchema
from service.bundle.manifest import FILE_NAME, MANIFEST, Digest, FileEntry, Manifest
from service.file_formats import HEAD_BYTES, detect

_VERSION = re.compile(r"[0-9a-f]{12}")
_CHUNK_BYTES = 2**20
_MAX_REASONS = 10
_ARCHIVE = re.compile(r"zip|gzip|tar|7z|RAR|xz|bzip2|Zstandard")


def read_bounded(path: Path, name: str, limit_bytes: int) -> bytes:
    """Return the content of a file of a bundle.

    Args:
        path: The bundle's folder.
        name: Name of the file.
        limit_bytes: Most bytes to accept.

    Raises:
        BundleIntegrity: The file is missing or cannot be read.
        BundleSchema: The file is larger.
    """
    try:
        with (path / name).open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise _unreadable(path, name, error) from error
    if len(data) > limit_bytes:
        raise BundleSchema(path, f"{name} is larger than {limit_bytes} bytes.")
    return data


def read_verified(path: Path, name: str, entry: FileEntry) -> bytes:
    """Return the content of a file of a bundle. It has the size and the hash that the manifest states.

    Raises:
        BundleIntegrity: The file is missing, cannot be read, or was changed.
    """
    try:
        data = read_bounded(path, name, entry.bytes)
    except BundleSchema as error:
        size = (path / name).stat().st_size
        raise BundleIntegrity(path, f"{_differs(name, size, entry)}.") from error
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleIntegrity(path, f"{_differs(name, len(data), entry)}.")
    return data


def require_unchanged(path: Path, manifest: Manifest, digest: Digest) -> None:
    """Check the name of the folder and the list of its files. The content of the files is not read.

    Raises:
        BundleIntegrity: The folder has another name, or a file that the manifest does not list.
        BundleSchema: The manifest lists a file that is not part of a bundle.
    """
    for reason in (*_check_name(path, digest), *_check_listed(path, manifest)):
        raise BundleIntegrity(path, f"{reason}.", _remedy([reason], digest))


def all_changes(path: Path, manifest: Manifest, digest: Digest) -> BundleIntegrity | None:
    """Return the error that names everything that was changed in a bundle, or None if nothing is found."""
    reasons = [*_check_name(path, digest), *_check_listed(path, manifest), *_check_contents(path, manifest)]
    shown = reasons[:_MAX_REASONS]
    if len(reasons) > len(shown):
        shown.append(f"and {len(reasons) - len(shown)} more")
    return BundleIntegrity(path, f"{'; '.join(shown)}.", _remedy(reasons, digest)) if reasons else None


def _check_name(path: Path, digest: Digest) -> Iterator[str]:
    """Yield what is wrong with the name of the folder."""
    expected = digest[:12]
    if path.name == expected:
        return
    stated = f"it is named {path.name}, but the digest of its manifest begins with {expected}"
    if _VERSION.fullmatch(path.name):
        yield f"its manifest was changed or its folder was renamed: {stated}"
    else:
        yield f"its folder was renamed: {stated}"


def _remedy(reasons: list[str], digest: Digest) -> str | None:
    """Return what to do; None for the general remedy."""
    if len(reasons) == 1 and reasons[0].startswith("its folder was renamed"):
        return f"Rename the folder to {digest[:12]}."
    if len(reasons) == 1 and reasons[0].startswith("its manifest was changed or"):
        return (
            f"If only the folder was renamed, rename it to {digest[:12]}. Otherwise copy the bundle again from where "
            "it was trained; a bundle is never edited."
        )
    return None


def _check_listed(path: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what is in the folder without being listed in the manifest."""
    for found in sorted(path.rglob("*")):
        name = found.relative_to(path).as_posix()
        if found.is_symlink():
            yield f"{name} is a symbolic link"
        elif found.is_file() and name not in manifest.files and name != MANIFEST:
            yield f"{name} is not listed in the manifest"


def _check_contents(path: Path, manifest: Manifest) -> Iterator[str]:
    """Yield which listed files are missing or differ from the manifest. Files are read in pieces."""
    for name, entry in sorted(manifest.files.items()):
        if not FILE_NAME.fullmatch(name) or (path / name).is_symlink():
            continue
        try:
            size = (path / name).stat().st_size
            if size != entry.bytes or _hash_file(path / name) != entry.sha256:
                yield _differs(name, size, entry)
        except OSError as error:
            yield _describe_failure(name, error)


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _differs(name: str, size: int, entry: FileEntry) -> str:
    """Return how a file differs from its entry in the manifest."""
    if size < entry.bytes:
        how = f"it is truncated or was changed, with {size} of {entry.bytes} bytes"
    else:
        how = f"it has {size} bytes, expected {entry.bytes}" if size > entry.bytes else "the SHA-256 differs"
    return f"{name} is not the file that the manifest lists ({how})"


def _describe_failure(name: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{name} is missing"
    if isinstance(error, PermissionError):
        return f"{name} cannot be read: this user has no permission"
    return f"{name} cannot be read ({error.strerror})"


def _unreadable(path: Path, name: str, error: OSError) -> BundleIntegrity:
    """Return the error for a file that cannot be read."""
    if path.is_dir():
        return BundleIntegrity(path, f"{_describe_failure(name, error)}.")
    if not path.exists():
        return BundleIntegrity(path, "there is no such folder.", "Give the folder models/PRODUCT/VERSION.")
    try:
        with path.open("rb") as file:
            found = detect(file.read(HEAD_BYTES))
    except OSError:
        found = None
    if found is not None and _ARCHIVE.search(found.name):
        return BundleIntegrity(
            path,
            f"this is {found.name}, expected the folder of a bundle.",
            "Unpack it, install it with `plumbline bundle import`, or upload it to the service.",
        )
    return BundleIntegrity(
        path,
        f"this is a file{f' ({found.name})' if found else ''}, expected the folder of a bundle.",
        "Give the folder models/PRODUCT/VERSION.",
    )
