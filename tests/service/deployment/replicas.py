"""Replicas that share a database and a bundle store, each with a cache of its own, in one process."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.bundle.archive import write_archive
from service.bundle.bundle import Bundle
from service.deployment.memory_limits import KEEP_ALL, MemoryLimits
from service.deployment.passed_tests import PassedSelfTests
from service.deployment.registry import Registry
from service.deployment.repository import BundleLoader
from service.deployment.revisions import RevisionFollower
from service.deployment.rollout import Rollout
from service.deployment.sources.cache import CacheLimits
from service.deployment.sources.stored import StoredSource
from service.deployment.startup import Startup
from service.deployment.uploads import BundleUploads, UploadLimits
from service.inspection.inspector import InspectorOptions
from service.inspection.runtime.isolation import SelfTestLimits
from service.inspection.runtime.session import SessionOptions
from service.monitoring.metrics import Metrics
from service.store.bundles.objects import BundleObjects, LocalObjects
from service.store.bundles.table import BundleTable
from service.store.errors import BundleStoreUnavailable
from service.store.store import Store
from tests.running_service import shared_self_tests
from tests.service.deployment.conftest import ADA

OPTIONS = InspectorOptions(session=SessionOptions(provider="cpu", threads=1))
PINNED_NUT = MemoryLimits(2**30, frozenset({"nut"}))
WAIT_S = 30.0
NO_DELAYS = CacheLimits(None, grace_s=0, pause_s=0)


class WatchedObjects(LocalObjects):
    """A bundle store in a folder, which counts what is read, can be down, and can hold a download."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: Counter[str] = Counter()
        self.is_down = False
        self.may_read = threading.Event()
        self.may_read.set()
        self.is_held = threading.Event()

    def read(self, name: str, start: int, length: int) -> bytes:
        self.reads[name.partition("/")[2]] += 1
        if not self.may_read.is_set():
            self.is_held.set()
            assert self.may_read.wait(30)
        if self.is_down:
            raise BundleStoreUnavailable(f"{name} cannot be read (it is down)")
        return super().read(name, start, length)

    def write(self, name: str, data: bytes) -> None:
        if self.is_down:
            raise BundleStoreUnavailable(f"{name} cannot be written (it is down)")
        super().write(name, data)


@dataclass
class Replica:
    """A replica: a registry, and what it follows the others by."""

    store: Store
    source: StoredSource
    registry: Registry
    rollout: Rollout
    follower: RevisionFollower
    metrics: Metrics
    startup: Startup

    def upload(self, bundle: Bundle, *, create_product: bool = True) -> bool:
        archive = io.BytesIO()
        write_archive(bundle, archive)
        product = bundle.manifest.product
        return self.rollout.upload(product, archive, actor=ADA, create_product=create_product)[1]

    def activate(self, bundle: Bundle) -> None:
        self.rollout.activate(bundle.manifest.product, bundle.version, actor=ADA, reason="test")

    def version(self, product: str) -> str:
        return self.registry.get(product).bundle.version

    def downloads(self, outcome: str = "done") -> float:
        return float(self.metrics.bundle_store.downloads.labels(outcome)._value.get())

    def files(self, product: str, version: str) -> set[str]:
        folder = self.source.root / product / version
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


Run = Callable[..., AbstractContextManager[Replica]]
on_both = pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True, ids=str
)
"""Run a test with both databases."""


@contextmanager
def run_replica(
    url: str,
    folder: Path,
    objects: BundleObjects,
    *,
    limits: CacheLimits = NO_DELAYS,
    memory: MemoryLimits = KEEP_ALL,
    is_exclusive: bool = False,
    is_followed: bool = False,
) -> Iterator[Replica]:
    """Start a replica, and close it at the end of the block. It follows the others only when it is asked."""
    store = Store.open(url, folder / "data", is_exclusive=is_exclusive)
    metrics = Metrics()
    source = StoredSource(folder / "cache", BundleTable(store.engine), objects, limits, metrics.bundle_store)
    loader = BundleLoader(OPTIONS, SelfTestLimits(), PassedSelfTests(shared_self_tests()))
    registry = Registry(source.root, loader, metrics, memory, source)
    uploads = BundleUploads(source.root, UploadLimits(2**24, max_uploads=2, reserve_bytes=0))
    follower = RevisionFollower(registry, store.engine)
    registry.synchronise = follower.require_current
    startup = Startup(registry, store.engine, is_followed=is_followed)
    startup.run()
    try:
        yield Replica(
            store, source, registry, Rollout(registry, store.engine, metrics, uploads), follower, metrics, startup
        )
    finally:
        registry.close()
        store.close()
