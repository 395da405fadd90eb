"""The products whose bundles are in memory, in a file, so that a process that starts again loads the same ones.

A proxy sends the images of a product to one replica. The database knows which products all replicas inspected, but not
which ones this replica did.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

from service.deployment.registry import Registry

USED_PRODUCTS = "used-products.json"
"""Name of the file in the data folder of the service."""
INTERVAL_S = 5.0
_MAX_BYTES = 16 * 2**20
_STOP_S = 5.0


class UsedProducts:
    """Writes the list every few seconds while it changes.

    Args:
        registry: The products.
        path: The file. Its folder is never created: if the data folder was unmounted, a new one would hide it.
        interval_s: Seconds between two looks at the memory.
    """

    def __init__(self, registry: Registry, path: Path, interval_s: float = INTERVAL_S) -> None:
        self._registry = registry
        self._path = path
        self._interval_s = interval_s
        self._written: list[str] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="used-products", daemon=True)

    def read(self) -> list[str]:
        """Return the products of the last process, the one that was used last first; none if there is no valid file."""
        try:
            if self._path.stat().st_size > _MAX_BYTES:
                return []
            names = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return []
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def start(self) -> None:
        """Start the thread that writes. Call it after the products of the last process were loaded."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. One that waits for the disk is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def write(self) -> None:
        """Write the products whose bundles are in memory on demand, unless the file has them already."""
        loaded = [
            (active.served.used_at, product)
            for product, active in self._registry.active.items()
            if active.served.is_loaded and not active.served.is_pinned
        ]
        names = [product for _, product in sorted(loaded, reverse=True)]
        if names == self._written:
            return
        part = self._path.with_suffix(f".{os.getpid()}.part")
        with contextlib.suppress(OSError):  # it is needed for speed only
            part.write_text(json.dumps(names))
            part.replace(self._path)
            self._written = names

    def _work(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.write()
