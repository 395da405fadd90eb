"""Bundles that are damaged in the bundle store: they are not downloaded again before their file was changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from service.bundle.manifest import FileEntry
from service.store.bundles.errors import BundleDamaged
from service.store.bundles.objects import BundleObjects
from service.store.errors import BundleStoreUnavailable

KEPT_S = 3600.0
"""Seconds after which a bundle is downloaded again although its file was not changed: it may have been damaged on the
way."""


@dataclass(frozen=True)
class _Damage:
    """What was found.

    Attributes:
        file: Name of the damaged file in the bundle.
        how: What is wrong with it.
        state: What identified its content in the bundle store, as far as that is known.
        until: When the bundle is downloaded again in any case.
    """

    file: str
    how: str
    state: Hashable
    until: float


class DamagedBundles:
    """Remembers the bundles whose download showed that they are damaged in the bundle store.

    Args:
        objects: The bundle store.
        clock: Monotonic time in seconds.
    """

    def __init__(self, objects: BundleObjects, clock: Callable[[], float] = time.monotonic) -> None:
        self._objects = objects
        self._clock = clock
        self._lock = threading.Lock()
        self._found: dict[str, _Damage] = {}

    def confirm(self, error: BundleDamaged, entry: FileEntry | None) -> bool:
        """Read a file again whose download showed that it is damaged, and remember it if it still is.

        What identifies its content is read before the file, so a repair at the same time is never taken for the damage.

        Args:
            error: What the download found.
            entry: The file as the manifest lists it; None if it is not listed, so that it is not read again.

        Returns:
            Whether it is damaged; False also if the bundle store cannot be reached now.
        """
        try:
            state = self._objects.state(f"{error.digest}/{error.file}")
            how = error.how if entry is None else self._read_again(error, entry)
        except BundleStoreUnavailable:
            return False
        if how is None:
            return False
        with self._lock:
            self._found[error.digest] = _Damage(error.file, how, state, self._clock() + KEPT_S)
        return True

    def require_changed(self, digest: str) -> None:
        """Check that a bundle is not known to be damaged, or that the damaged file was changed since.

        Args:
            digest: Digest of the bundle.

        Raises:
            BundleDamaged: The file is the one that was found to be damaged.
            BundleStoreUnavailable: It cannot be examined.
        """
        with self._lock:
            damage = self._found.get(digest)
        if damage is None:
            return
        if self._clock() < damage.until and self._objects.state(f"{digest}/{damage.file}") == damage.state:
            raise BundleDamaged(digest, damage.file, damage.how)
        with self._lock:
            self._found.pop(digest, None)

    def _read_again(self, error: BundleDamaged, entry: FileEntry) -> str | None:
        """Return what is wrong with a file now; None if it was repaired, or damaged on the way only.

        Raises:
            BundleStoreUnavailable: It cannot be read.
        """
        try:
            for _ in self._objects.download(error.digest, error.file, entry):
                pass
        except BundleDamaged as again:
            return again.how
        return None
