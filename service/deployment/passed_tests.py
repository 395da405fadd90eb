"""Self-tests that bundles passed on this machine, so that a restart does not repeat them."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

MAX_ENTRIES = 4096
SELF_TESTS = "self-tests"
"""Name of the folder in the data folder of the service."""


class PassedSelfTests:
    """A folder with an empty file for each passed self-test. The name of the file is a hash of what was tested.

    It is a cache: if it cannot be written, the self-test runs again at the next start.

    Args:
        folder: The folder. It is created when the first self-test passes, but never its parent folder: if the data
            folder was deleted or unmounted, a new one would hide it.
        limit: Most entries.
    """

    def __init__(self, folder: Path, limit: int = MAX_ENTRIES) -> None:
        self._folder = folder
        self._limit = limit

    def contains(self, facts: Sequence[object]) -> bool:
        """Return whether a self-test passed.

        Args:
            facts: What was tested and how. The machine and the version of ONNX Runtime are added to it.
        """
        return self._file(facts).is_file()

    def add(self, facts: Sequence[object]) -> None:
        """Record that a self-test passed. The oldest entries are removed if there are too many."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            self._file(facts).touch()
            entries = list(self._folder.iterdir())
            if len(entries) > self._limit:
                entries.sort(key=lambda file: file.stat().st_mtime)
                for file in entries[: -self._limit]:
                    file.unlink()

    def _file(self, facts: Sequence[object]) -> Path:
        tested = repr([*facts, ort.__version__, platform.node(), platform.machine()])
        return self._folder / hashlib.sha256(tested.encode()).hexdigest()
