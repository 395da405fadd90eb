"""The local cache of the bundle store: a folder in the layout of a model repository, with a limit on its size.

Files are downloaded beside their place, verified, and renamed, so a file under its name is always the one that the
manifest lists. Several processes may share the folder. A bundle whose download was interrupted is incomplete, and
completed by the next one that needs it.

If the limit is exceeded, the least recently used bundles leave: first those that are not in force for any product, then
graphs and golden samples of those that are in force and not in memory. Their descriptions stay. What is not in the
bundle store is never removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.bundle.manifest import CARD, FILE_NAME, IMAGES, MANIFEST, FileEntry, Manifest
from service.deployment.sources.cache_folder import CachedBundle, CacheFolder, size_of
from service.deployment.sources.source import BundleKey
from service.errors import ShuttingDown
from service.monitoring.bundle_store_metrics import BundleStoreMetrics
from service.store.bundles.errors import BundleDamaged
from service.store.bundles.objects import BundleObjects
from service.store.bundles.table import StoredBundle
from service.store.errors import BundleStoreUnavailable

log = structlog.get_logger(__name__)

DESCRIPTION = frozenset({CARD, IMAGES})
"""The files beside the manifest that are needed to decide with a bundle, without its graph."""
GRACE_S = 60.0
"""Seconds after its last use for which a bundle is not removed. Another process may be loading it."""
PAUSE_S = 2.0
"""Seconds after a failed request in which nothing is requested: others would wait for the same deadline."""
_SCAN_S = 60.0
_WARN_S = 600.0
_ATTEMPTS = 3
_KEPT = DESCRIPTION | {MANIFEST}


@dataclass(frozen=True)
class CacheLimits:
    """When bundles leave the cache, and when they are requested again.

    Attributes:
        limit_bytes: Most bytes in the folder; None for no limit.
        grace_s: Seconds after its last use for which a bundle stays.
        pause_s: Seconds after a failed request in which nothing is requested.
    """

    limit_bytes: int | None = None
    grace_s: float = GRACE_S
    pause_s: float = PAUSE_S


@dataclass
class _Reservation:
    """The bytes of a download that are not in their place yet."""

    left: int


class BundleCache:
    """The files of bundles on the local disk.

    Locks:
        Each bundle has a lock that is held while it is downloaded: whoever needs it meanwhile waits for the download.
        `_lock` protects the mappings and the sums of bytes, and is not held during I/O.

    Args:
        root: The folder. It is created.
        objects: The bundle store.
        limits: When bundles leave.
        metrics: Counts downloads and removals.
        removable: Returns the bundles that may be removed, and whether each is in force in any process.
    """

    def __init__(
        self,
        root: Path,
        objects: BundleObjects,
        limits: CacheLimits,
        metrics: BundleStoreMetrics,
        removable: Callable[[], Mapping[BundleKey, bool]],
    ) -> None:
        self._folder = CacheFolder(root)
        self._objects = objects
        self._limits = limits
        self._metrics = metrics
        self._removable = removable
        self._loaded: Callable[[], Set[BundleKey]] = frozenset
        self._lock = threading.Lock()
        self._locks: dict[BundleKey, threading.Lock] = {}
        self._held: Counter[BundleKey] = Counter()
        self._trimming = threading.Lock()
        self._used, self._scanned_at, self._warned_at = 0, -_SCAN_S, -_WARN_S
        self._reserved = 0
        """Bytes that downloads in progress will add to the folder."""
        self._closing = threading.Event()
        self._unavailable_until, self._reason = 0.0, ("", "")
        self._scan()
        metrics.set_cache(lambda: self._used, limits.limit_bytes)

    @property
    def used_bytes(self) -> int:
        """Bytes in the folder, exact to what other processes changed in the last minute."""
        return self._used

    def set_loaded(self, loaded: Callable[[], Set[BundleKey]]) -> None:
        """Set what returns the bundles that are in memory."""
        self._loaded = loaded

    @contextmanager
    def held(self, key: BundleKey) -> Iterator[Path]:
        """Keep a bundle in the cache for the block. Yields its folder, which need not exist."""
        with self._lock:
            self._held[key] += 1
        try:
            yield self._folder.bundle(key)
        finally:
            with self._lock:
                self._held[key] -= 1

    def manifest(self, key: BundleKey) -> Manifest | None:
        """Return the manifest of a bundle on the local disk; None if it is missing or damaged."""
        try:
            data = (self._folder.bundle(key) / MANIFEST).read_bytes()
            if hashlib.sha256(data).hexdigest()[:12] != key[1]:
                return None
            return Manifest.model_validate_json(data)
        except (OSError, ValueError):
            return None

    def missing(self, key: BundleKey, manifest: Manifest, *, with_graph: bool) -> dict[str, FileEntry]:
        """Return the files of a bundle that are not on the local disk. Their content is not examined.

        Args:
            key: The bundle.
            manifest: Its manifest.
            with_graph: Whether all files are needed, or the description only.
        """
        folder = self._folder.bundle(key)
        wanted = {name: entry for name, entry in manifest.files.items() if with_graph or name in DESCRIPTION}
        return {name: entry for name, entry in wanted.items() if size_of(folder / name) != entry.bytes}

    def complete(self, key: BundleKey, find: Callable[[], StoredBundle], *, with_graph: bool) -> None:
        """Download what is missing of a bundle. Concurrent calls for one bundle share one download.

        Args:
            key: The bundle.
            find: Looks the bundle up; called if something is missing.
            with_graph: Whether all files are needed, or the description only.

        Raises:
            BundleStoreUnavailable: It cannot be downloaded, or is damaged in the bundle store.
            ShuttingDown: `close` was called.
            Exception: What `find` raises.
        """
        with self._lock_of(key):
            manifest = self.manifest(key)
            if manifest is None or self.missing(key, manifest, with_graph=with_graph):
                self._download(key, find(), with_graph=with_graph)
            with contextlib.suppress(OSError):
                os.utime(self._folder.bundle(key))  # when it was used last

    def remove_damaged(self, key: BundleKey, entries: Mapping[str, FileEntry]) -> None:
        """Remove those files of a bundle that are damaged on the local disk. Others may use the intact ones meanwhile.

        Args:
            key: The bundle.
            entries: Its files as its manifest lists them. A damaged manifest stays until `complete` replaces it.
        """
        with self._lock_of(key):
            self._add_used(-self._folder.remove_damaged(self._folder.bundle(key), entries))

    def trim(self, *, is_changed: bool = False) -> None:
        """Remove bundles if the limit is exceeded, or will be by the downloads in progress.

        Args:
            is_changed: Whether something else added files to the folder.
        """
        limit = math.inf if self._limits.limit_bytes is None else self._limits.limit_bytes
        is_old = is_changed or time.monotonic() - self._scanned_at > _SCAN_S
        if self._needed <= limit and not is_old:
            return
        with self._trimming:
            cached = self._scan()
            if self._needed <= limit:
                return
            try:
                removable = self._removable()
            except Exception as error:  # noqa: BLE001 - without the list of bundles, nothing may be removed
                log.warning("cache of bundles not reduced", reason=repr(error))
                return
            # Somewhat more than needed, so that not every download has to look for something to remove.
            self._remove_oldest(cached, removable, int(self._needed - limit + limit // 20))
            if self._needed > limit and time.monotonic() - self._warned_at > _WARN_S:
                self._warned_at = time.monotonic()
                log.warning(
                    "cache of bundles exceeds its limit",
                    bytes=self._needed,
                    limit=limit,
                    reason="everything else in it is in use, was used a moment ago, or is not in the bundle store",
                )

    def close(self) -> None:
        """Stop downloads. One that waits for the bundle store ends with its request."""
        self._closing.set()
        self._objects.close()

    def _remove_oldest(self, cached: list[CachedBundle], removable: Mapping[BundleKey, bool], excess: int) -> None:
        loaded, now = self._loaded(), time.time()
        candidates = [
            one
            for one in cached
            if one.key in removable
            and one.key not in loaded
            and not self._held[one.key]
            and now - one.used_at >= self._limits.grace_s
        ]
        for one in sorted(candidates, key=lambda one: (removable[one.key], one.used_at)):
            if excess <= 0:
                return
            freed = self._folder.strip(one.path, _KEPT) if removable[one.key] else self._folder.discard(one.path)
            if freed:
                self._add_used(-freed)
                excess -= freed
                self._metrics.evictions.inc()
                log.info("bundle removed from the cache", product=one.key[0], version=one.key[1], bytes=freed)

    @contextmanager
    def requesting(self) -> Iterator[None]:
        """Send requests to the bundle store in the block, unless one failed a moment ago.

        Raises:
            BundleStoreUnavailable: It cannot be reached, or could not be a moment ago.
        """
        self._require_no_pause()
        try:
            yield
        except BundleDamaged:
            raise  # it was reached
        except BundleStoreUnavailable as error:
            self._begin_pause(error)
            raise

    def _require_no_pause(self) -> None:
        if time.monotonic() < self._unavailable_until:
            raise BundleStoreUnavailable(*self._reason)

    def _begin_pause(self, error: BundleStoreUnavailable) -> None:
        self._reason = error.reason, error.remedy
        self._unavailable_until = time.monotonic() + self._limits.pause_s

    def _download(self, key: BundleKey, stored: StoredBundle, *, with_graph: bool) -> None:
        self._require_no_pause()
        started = time.monotonic()
        try:
            size = self._download_all(key, stored, with_graph=with_graph)
        except BundleDamaged:
            self._metrics.downloads.labels("damaged").inc()
            raise
        except BundleStoreUnavailable as error:
            self._metrics.downloads.labels("failed").inc()
            self._begin_pause(error)
            raise
        except OSError as error:
            self._metrics.downloads.labels("failed").inc()
            raise BundleStoreUnavailable(
                f"its cache {self._folder.root} cannot be written ({error.strerror})",
                "Free some space on that disk, or lower PLUMBLINE_BUNDLE_CACHE_BYTES.",
            ) from error
        seconds = time.monotonic() - started
        self._metrics.count_download(size, seconds)
        log.info("bundle downloaded", product=key[0], version=key[1], bytes=size, seconds=round(seconds, 3))

    def _download_all(self, key: BundleKey, stored: StoredBundle, *, with_graph: bool) -> int:
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):  # another process removed the folder meanwhile
                return self._download_missing(key, stored, with_graph=with_graph)
        raise BundleStoreUnavailable(
            f"bundle {key[1]} was removed from its cache by another process while it was downloaded",
            "Raise PLUMBLINE_BUNDLE_CACHE_BYTES.",
        )

    def _download_missing(self, key: BundleKey, stored: StoredBundle, *, with_graph: bool) -> int:
        manifest, folder = stored.manifest, self._folder.bundle(key)
        missing = self.missing(key, manifest, with_graph=with_graph)
        text = stored.manifest_json.encode()
        is_safe = all(FILE_NAME.fullmatch(name) for name in manifest.files)
        if not is_safe or hashlib.sha256(text).hexdigest() != stored.digest:
            raise BundleDamaged(stored.digest, MANIFEST, "the database has another one")
        has_manifest = self.manifest(key) is not None
        size = sum(entry.bytes for entry in missing.values()) + (0 if has_manifest else len(text))
        with self._reserve(size) as reservation:
            self.trim()
            for name, entry in missing.items():
                self._put(folder / name, self._objects.download(stored.digest, name, entry), reservation)
            if not has_manifest:
                self._put(folder / MANIFEST, iter([text]), reservation)
        if self.missing(key, manifest, with_graph=with_graph):
            raise FileNotFoundError(str(folder))
        return size

    @contextmanager
    def _reserve(self, size: int) -> Iterator[_Reservation]:
        """Reserve bytes of the limit for a download, so that those beside it take them into account."""
        reservation = _Reservation(size)
        with self._lock:
            self._reserved += size
        try:
            yield reservation
        finally:
            with self._lock:
                self._reserved -= reservation.left

    def _put(self, path: Path, pieces: Iterator[bytes], reservation: _Reservation) -> None:
        """Write a file that appears in its place only when it is complete and verified."""
        part = self._folder.new_part()
        try:
            with part.open("xb") as file:
                for piece in pieces:
                    if self._closing.is_set():
                        raise ShuttingDown()
                    file.write(piece)
            path.parent.mkdir(parents=True, exist_ok=True)
            size, replaced = part.stat().st_size, size_of(path) or 0
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        with self._lock:
            self._used += size - replaced
            self._reserved -= size
            reservation.left -= size

    def _scan(self) -> list[CachedBundle]:
        """Measure all bundles in the folder, and those that are being uploaded."""
        found, staged = self._folder.scan()
        with self._lock:
            self._used, self._scanned_at = staged + sum(one.size for one in found), time.monotonic()
        return found

    @property
    def _needed(self) -> int:
        """Bytes in the folder when all downloads in progress are complete."""
        with self._lock:
            return self._used + self._reserved

    def _add_used(self, size: int) -> None:
        with self._lock:
            self._used += size

    def _lock_of(self, key: BundleKey) -> threading.Lock:
        """Return the lock that is held while a bundle is downloaded."""
        with self._lock:
            return self._locks.setdefault(key, threading.Lock())
