"""Service processes for the scripts of this package."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from tests.bundles import write_tiny_bundle
from tests.serving import ServiceProcess, service_process

CPU = {"provider": "cpu", "threads": "1"}
ZIP = {"content-type": "application/zip"}


@contextmanager
def scratch() -> Iterator[tuple[Path, Path]]:
    """Make a model repository with the tiny product "widget" and an empty data folder, for the block."""
    with TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        write_tiny_bundle(models)
        yield models, Path(folder) / "data"


@contextmanager
def attacked_service(models: Path, data: Path, **settings: str) -> Iterator[ServiceProcess]:
    """Run a service process for the block, and return when it listens."""
    with service_process(models, data, CPU | settings) as service:
        yield service


def upload(service: ServiceProcess, archive: bytes, product: str = "widget", **params: str) -> httpx.Response:
    """Upload an archive as a bundle."""
    url = f"{service.url}/v1/products/{product}/bundles"
    return httpx.post(url, content=archive, params=params, headers=ZIP, timeout=120)


def wait_for(condition: Callable[[], object], timeout_s: float) -> float:
    """Wait until a condition holds. Return the seconds that it took, or infinity if it did not hold in time."""
    since = time.monotonic()
    while not condition():
        if time.monotonic() - since > timeout_s:
            return float("inf")
        time.sleep(0.02)
    return time.monotonic() - since


class PeakMemory:
    """Samples the resident memory of a process and its children, for the length of a block.

    Attributes:
        own_bytes: Peak of the process itself.
    """

    def __init__(self, pid: int) -> None:
        self.own_bytes = 0
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.01):
            try:
                self.own_bytes = max(self.own_bytes, self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return
