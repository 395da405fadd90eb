"""When bundles that were refused are loaded again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

from service.store.records import Role

MAX_DELAY_S = 60.0
_FIRST_DELAY_S = 1.0
_Files = frozenset[tuple[str, int, int]]


@dataclass
class _Failure:
    """The failures to load what is wanted for a role.

    Attributes:
        wanted: Identifies what should be loaded.
        files: The product's files when it failed last.
        seen: The product's files at the last check.
        delay_s: Seconds between the last failure and the next attempt.
        next_at: When the next attempt is due.
    """

    wanted: Hashable
    files: _Files
    seen: _Files
    delay_s: float
    next_at: float


class LoadRetries:
    """Delays the next attempt to load a bundle that was refused.

    The delay doubles with each failure, up to `MAX_DELAY_S`. If the files of the product change, the next attempt is
    due as soon as two checks in a row find the same files, because a file may still be being copied at the first.

    Args:
        models: The model repository.
        clock: Monotonic time in seconds; a parameter so that delays can be tested.
    """

    def __init__(self, models: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._clock = clock
        self._failures: dict[tuple[str, Role], _Failure] = {}

    def is_due(self, product: str, role: Role, wanted: Hashable) -> bool:
        """Return whether to load now what is wanted.

        Args:
            product: The product.
            role: The role that the bundle should have.
            wanted: Identifies what should be loaded. If it differs from what failed before, it is loaded at once.
        """
        failure = self._failures.get((product, role))
        if failure is None or failure.wanted != wanted:
            return True
        files = _list_files(self._models / product)
        is_settled, failure.seen = files == failure.seen, files
        return (is_settled and files != failure.files) or self._clock() >= failure.next_at

    def has_failed(self, product: str, role: Role, wanted: Hashable) -> bool:
        """Return whether what is wanted could not be loaded before. Reads no file, unlike `is_due`."""
        failure = self._failures.get((product, role))
        return failure is not None and failure.wanted == wanted

    def add_failure(self, product: str, role: Role, wanted: Hashable) -> None:
        """Record that what was wanted could not be loaded."""
        files = _list_files(self._models / product)
        last = self._failures.get((product, role))
        is_same = last is not None and (last.wanted, last.files) == (wanted, files)
        delay_s = min(MAX_DELAY_S, 2 * last.delay_s) if last is not None and is_same else _FIRST_DELAY_S
        self._failures[product, role] = _Failure(wanted, files, files, delay_s, self._clock() + delay_s)

    def clear(self, product: str, role: Role) -> bool:
        """Forget the failures. Return whether there were any."""
        return self._failures.pop((product, role), None) is not None


def _list_files(folder: Path) -> _Files:
    """Return path, size and time of change of every file in a folder, as far as they can be read."""
    found = set()
    with contextlib.suppress(OSError):  # the folder was removed meanwhile
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):  # removed meanwhile, or a broken link
                status = path.stat()
                found.add((str(path), status.st_size, status.st_mtime_ns))
    return frozenset(found)
