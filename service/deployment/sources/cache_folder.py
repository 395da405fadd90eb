"""The folder of the cache of bundles: measure what is in it, and remove bundles or parts of them."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from service.bundle.manifest import MANIFEST, FileEntry
from service.bundle.writer import STAGING, STALE_S
from service.deployment.sources.source import BundleKey

_PARTS = ".downloads"


@dataclass(frozen=True)
class CachedBundle:
    """A bundle on the local disk: its size, and when it was used last."""

    key: BundleKey
    path: Path
    size: int
    used_at: float


class CacheFolder:
    """The folder of a cache, `<product>/<version>/`, which other processes may change at any time.

    Args:
        root: The folder. It is created.

    Raises:
        OSError: It cannot be created.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def bundle(self, key: BundleKey) -> Path:
        """Return the folder of a bundle, which need not exist."""
        return self.root / key[0] / key[1]

    def new_part(self) -> Path:
        """Return a new name beside the bundles, for a file that is incomplete or a folder that is being removed.

        Raises:
            OSError: The folder of these files cannot be created.
        """
        path = self.root / _PARTS / secrets.token_hex(8)
        path.parent.mkdir(exist_ok=True)
        return path

    def scan(self) -> tuple[list[CachedBundle], int]:
        """Measure all bundles, and remove what killed processes left behind.

        Returns:
            The bundles, and the size of those that are being uploaded, in bytes.
        """
        self._remove_stale()
        found, staged = [], 0
        for product in _folders(self.root):
            for folder in _folders(product, STAGING):
                if folder.name.startswith(STAGING):
                    staged += _tree_size(folder)
                    continue
                with contextlib.suppress(OSError):
                    used_at = folder.stat().st_mtime
                    found.append(CachedBundle((product.name, folder.name), folder, _tree_size(folder), used_at))
        return found, staged

    def strip(self, folder: Path, kept: Set[str]) -> int:
        """Remove all files of a bundle but some, and return their size."""
        return sum(_unlink(path) for name, path in _files(folder).items() if name not in kept)

    def discard(self, folder: Path) -> int:
        """Remove a bundle: at once from its place, then its files. Return their size."""
        size = _tree_size(folder)
        try:
            aside = self.new_part()
            folder.rename(aside)
        except OSError:
            return 0  # another process removed it
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # succeeds only if it is empty
        return size

    def remove_damaged(self, folder: Path, entries: Mapping[str, FileEntry]) -> int:
        """Remove those files of a bundle that its manifest does not list as they are, and return their size.

        The manifest itself stays. Processes that have opened a file keep its content.
        """
        return sum(
            _unlink(path)
            for name, path in _files(folder).items()
            if name != MANIFEST and (name not in entries or _sha256(path) != entries[name].sha256)
        )

    def _remove_stale(self) -> None:
        """Remove what a killed process left behind: incomplete downloads, and folders that it was removing."""
        with contextlib.suppress(OSError):
            for part in (self.root / _PARTS).iterdir():
                if time.time() - part.stat().st_mtime > STALE_S:
                    if part.is_dir():
                        shutil.rmtree(part, ignore_errors=True)
                    else:
                        part.unlink(missing_ok=True)


def size_of(path: Path) -> int | None:
    """Return the size of a file in bytes; None if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _folders(folder: Path, hidden: str | None = None) -> list[Path]:
    """Return the folders in a folder: those that are not hidden, and those whose names begin with `hidden`."""
    try:
        return [path for path in folder.iterdir() if _is_listed(path.name, hidden) and path.is_dir()]
    except OSError:
        return []  # removed meanwhile


def _is_listed(name: str, hidden: str | None) -> bool:
    return not name.startswith(".") or (hidden is not None and name.startswith(hidden))


def _files(folder: Path) -> dict[str, Path]:
    """Return the files in a folder by their relative names."""
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError):  # removed meanwhile
        found.update((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return found


def _tree_size(folder: Path) -> int:
    return sum(size_of(path) or 0 for path in _files(folder).values())


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _unlink(path: Path) -> int:
    """Remove a file, and return its size; 0 if it is not removed."""
    try:
        size = path.stat().st_size
        path.unlink()
    except OSError:
        return 0
    return size
