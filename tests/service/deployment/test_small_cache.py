"""A memory and a cache that are too small for the products in use."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.deployment.memory_limits import MemoryLimits, memory_bytes
from service.deployment.sources.cache import CacheLimits
from tests.bundles import write_tiny_bundle
from tests.running_service import GOOD
from tests.service.deployment.replicas import WatchedObjects, run_replica

pytestmark = pytest.mark.slow
WAIT_S = 60.0


def test_small_memory_and_small_cache_cost_time_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    objects, url = WatchedObjects(tmp_path / "store"), f"sqlite:///{tmp_path / 'plumbline.db'}"
    names = ("bolt", "nut", "rivet")
    bundles = [write_tiny_bundle(tmp_path / "made", name) for name in names]
    size = sum(path.stat().st_size for path in bundles[0].path.rglob("*") if path.is_file())
    with run_replica(url, tmp_path / "a", objects) as first:
        for bundle in bundles:
            first.upload(bundle)
            first.activate(bundle)
    # The descriptions of three bundles, and graphs and golden samples of one.
    memory = MemoryLimits(int(1.5 * memory_bytes(bundles[0].manifest)))
    limits = CacheLimits(int(2.6 * size), grace_s=0, pause_s=0)
    with run_replica(url, tmp_path / "b", objects, memory=memory, limits=limits) as replica:
        is_done = threading.Event()

        def remove() -> None:
            while not is_done.wait(0.01):
                replica.source._cache.trim(is_changed=True)

        def work(offset: int) -> int:
            judged = 0
            for number in range(offset, offset + 3):
                with replica.registry.lease(names[number % 3], WAIT_S) as active:
                    active.inspector.infer(active.inspector.read(GOOD))
                    judged += 1
            return judged

        remover = threading.Thread(target=remove)
        remover.start()
        try:
            with ThreadPoolExecutor(2) as pool:
                assert list(pool.map(work, (0, 2))) == [3, 3]
        finally:
            is_done.set()
            remover.join()
        replica.source._cache.trim(is_changed=True)
        assert replica.metrics.bundle_store.evictions._value.get() > 0
        assert replica.metrics.memory.evictions._value.get() > 0
        assert replica.downloads("failed") == replica.downloads("damaged") == 0
        assert not replica.registry.broken
