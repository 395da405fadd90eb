"""The files of bundles in the bundle store: a folder, or a remote file system such as an S3 bucket.

The name of a file is `<digest>/<name in the bundle>`. What the name stands for follows from the digest, so a file is
never replaced by another content: only a damaged one is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from service.bundle.bundle import Bundle
from service.bundle.manifest import MANIFEST, FileEntry
from service.store.artefacts.local import probe_write, write_atomically
from service.store.artefacts.options import ArtefactOptions
from service.store.bundles.errors import BundleDamaged
from service.store.errors import BundleStoreUnavailable, StoreUnavailable

PIECE_BYTES = 8 * 2**20
"""Bytes per request of a download. Each request has a deadline of its own."""
_WRITERS = 4
"""Files of a bundle that are written at the same time."""
_DELETED_AT_ONCE = 1000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MIN_RATE = 2**20
"""Lowest rate of an upload, in bytes per second, that the deadline of its request allows for."""


@dataclass(frozen=True)
class StoredObject:
    """A file in the folder of a bundle.

    Attributes:
        name: Its name in the bundle.
        size: Its size in bytes.
        modified_at: When it was written; None if the file system does not state it.
    """

    name: str
    size: int
    modified_at: datetime | None


class BundleObjects(ABC):
    """The files of bundles. Methods may be called from several threads, and block."""

    @abstractmethod
    def read(self, name: str, start: int, length: int) -> bytes:
        """Return a part of a file; a shorter one at its end.

        Raises:
            FileNotFoundError: It does not exist.
            BundleStoreUnavailable: It cannot be read.
        """

    @abstractmethod
    def state(self, name: str) -> Hashable:
        """Return what changes when a file is written again, such as its time; None if it does not exist.

        Raises:
            BundleStoreUnavailable: It cannot be examined.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file, which appears under its name only when it is complete and durable.

        Raises:
            BundleStoreUnavailable: It cannot be written.
        """

    @abstractmethod
    def digests(self) -> set[str]:
        """Return the digests of all bundles of which there are files, complete or not.

        Raises:
            BundleStoreUnavailable: The files cannot be listed.
        """

    @abstractmethod
    def files(self, digest: str) -> list[StoredObject]:
        """Return the files of a bundle, also those that do not belong to it; none if there is no such bundle.

        Raises:
            BundleStoreUnavailable: They cannot be listed.
        """

    @abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Delete files, as far as they exist.

        Args:
            names: At most 1000 names.

        Raises:
            BundleStoreUnavailable: At least one of them cannot be deleted.
        """

    @abstractmethod
    def probe(self) -> None:
        """Write a small file and delete it.

        Raises:
            BundleStoreUnavailable: It is not possible.
        """

    @abstractmethod
    def close(self) -> None:
        """Close connections, if there are any."""

    def store(self, bundle: Bundle) -> None:
        """Store all files of a bundle, and read each of them back. Files that are intact already are not written.

        Args:
            bundle: The bundle, with its files on disk. They are verified again when they are read.

        Raises:
            BundleIntegrity: A file of the bundle was changed since it was loaded.
            BundleStoreUnavailable: Files cannot be stored. Files without a row in the table have no effect.
        """
        # The manifest last: where it exists, all others were stored. Without it, there is nothing to compare with.
        is_known = self.state(f"{bundle.digest}/{MANIFEST}") is not None
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="bundle-store") as threads:
            for _ in threads.map(lambda name: self._store(bundle, name, is_known=is_known), bundle.manifest.files):
                pass
        self._store(bundle, MANIFEST, is_known=is_known)

    def remove(self, digest: str) -> None:
        """Delete all files of a bundle. It can be interrupted, and repeated.

        Args:
            digest: Digest of the bundle, which is not listed.

        Raises:
            BundleStoreUnavailable: Files cannot be deleted.
        """
        # The manifest first: without it, an upload takes no other file for a complete one.
        self.delete([f"{digest}/{MANIFEST}"])
        names = [f"{digest}/{file.name}" for file in self.files(digest)]
        for start in range(0, len(names), _DELETED_AT_ONCE):
            self.delete(names[start : start + _DELETED_AT_ONCE])
        if left := self.files(digest):
            raise BundleStoreUnavailable(f"{left[0].name} of bundle {digest[:12]} was deleted, but is there again")

    def _store(self, bundle: Bundle, name: str, *, is_known: bool) -> None:
        """Store a file of a bundle, and read it back."""
        data = bundle.read_file(name)
        entry = FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        if is_known and self._is_intact(bundle.digest, name, entry):
            return
        self.write(f"{bundle.digest}/{name}", data)
        if not self._is_intact(bundle.digest, name, entry):
            raise BundleStoreUnavailable(f"{name} of bundle {bundle.version} is not what was written to it")

    def download(self, digest: str, name: str, entry: FileEntry) -> Iterator[bytes]:
        """Yield the content of a file in pieces. The last piece is followed by the check of its hash.

        Args:
            digest: Digest of the bundle.
            name: Name of the file in the bundle.
            entry: Its size and hash.

        Raises:
            BundleDamaged: It is missing, or not what the manifest lists.
            BundleStoreUnavailable: It cannot be read.
        """
        hashed, size = hashlib.sha256(), 0
        while size <= entry.bytes:
            asked = min(PIECE_BYTES, entry.bytes - size + 1)  # one byte more, to notice a file that is too long
            try:
                piece = self.read(f"{digest}/{name}", size, asked)
            except FileNotFoundError as error:
                raise BundleDamaged(digest, name, "it is missing") from error
            hashed.update(piece)
            size += len(piece)
            yield piece
            if len(piece) < asked:
                break
        if size != entry.bytes:
            found = f"{size} of" if size < entry.bytes else "more than"
            raise BundleDamaged(digest, name, f"it has {found} {entry.bytes} bytes")
        if hashed.hexdigest() != entry.sha256:
            raise BundleDamaged(digest, name, "the SHA-256 differs")

    def _is_intact(self, digest: str, name: str, entry: FileEntry) -> bool:
        try:
            for _ in self.download(digest, name, entry):
                pass
        except BundleDamaged:
            return False
        return True


class LocalObjects(BundleObjects):
    """Files in a folder, which must exist: a new one would hide a mount that is missing.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return a part of a file."""
        try:
            with (self._root / name).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except FileNotFoundError:
            self._require_root()
            raise
        except OSError as error:
            raise BundleStoreUnavailable(f"{name.partition('/')[2]} cannot be read ({error.strerror})") from error

    def state(self, name: str) -> Hashable:
        """Return size, time of change and number of a file.

        The time of some file systems has steps of milliseconds, but a file that is written again has another number.
        """
        try:
            found = (self._root / name).stat()
        except FileNotFoundError:
            self._require_root()
            return None
        except OSError as error:
            raise BundleStoreUnavailable(f"{name.partition('/')[2]} cannot be read ({error.strerror})") from error
        return found.st_size, found.st_mtime_ns, found.st_ino

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        self._require_root()
        try:
            write_atomically(self._root / name, data, self._root).sync()
        except StoreUnavailable as error:
            raise BundleStoreUnavailable(error.reason) from error

    def digests(self) -> set[str]:
        """Return the names of the folders of bundles."""
        self._require_root()
        try:
            return {path.name for path in self._root.iterdir() if is_digest(path.name)}
        except OSError as error:
            raise BundleStoreUnavailable(f"{self._root} cannot be read ({error.strerror})") from error

    def files(self, digest: str) -> list[StoredObject]:
        """Return the files in the folder of a bundle, also incomplete ones."""
        folder = self._root / digest
        found = []
        try:
            for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
                with contextlib.suppress(FileNotFoundError):
                    state = path.lstat()
                    moment = datetime.fromtimestamp(state.st_mtime, UTC)
                    found.append(StoredObject(path.relative_to(folder).as_posix(), state.st_size, moment))
        except OSError as error:
            raise BundleStoreUnavailable(f"{folder} cannot be read ({error.strerror})") from error
        return found

    def delete(self, names: Sequence[str]) -> None:
        """Delete files, and the folders that are empty then."""
        self._require_root()
        for name in names:
            path = self._root / name
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise BundleStoreUnavailable(f"{name} cannot be deleted ({error.strerror})") from error
            for folder in path.relative_to(self._root).parents[:-1]:
                with contextlib.suppress(OSError):  # it is not empty, or gone
                    (self._root / folder).rmdir()

    def probe(self) -> None:
        """Write a small file and delete it."""
        self._require_root()
        try:
            probe_write(self._root)
        except StoreUnavailable as error:
            raise BundleStoreUnavailable(error.reason) from error

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise BundleStoreUnavailable(f"the folder {self._root} does not exist", "Create it, or mount it.")


def is_digest(name: str) -> bool:
    """Return whether a name is the digest of a bundle. Other files in the bundle store are left alone."""
    return _DIGEST.fullmatch(name) is not None


def open_objects(options: ArtefactOptions) -> BundleObjects:
    """Return the files of the bundle store without connecting.

    Args:
        options: Where they are.

    Raises:
        BundleStoreUnavailable: The package for the URL is not installed.
    """
    if options.url.startswith("file://"):
        return LocalObjects(Path(url2pathname(urlsplit(options.url).path)))
    from service.store.bundles.remote import RemoteObjects  # fsspec takes time to import

    return RemoteObjects(options, _MIN_RATE)
