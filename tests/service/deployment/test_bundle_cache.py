"""The local cache of the bundle store: its limit, what it keeps, and processes that share it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from service.bundle.bundle import Bundle
from service.bundle.manifest import MANIFEST, MODEL
from service.deployment.sources.cache import DESCRIPTION, BundleCache, CacheLimits
from service.deployment.sources.source import BundleKey
from service.monitoring.metrics import Metrics
from service.store.bundles.errors import BundleDamaged
from service.store.bundles.table import StoredBundle
from service.store.errors import BundleStoreUnavailable, StoreUnavailable
from tests.bundles import write_tiny_bundle
from tests.folder_watch import wait_for
from tests.service.deployment.replicas import WatchedObjects

NAMES = ("bolt", "nut", "rivet", "washer")
DESCRIBED = {MANIFEST, *DESCRIPTION}


class Bench:
    """A cache of one to four bundles, each of another product."""

    def __init__(self, folder: Path, objects: WatchedObjects, bundles: Mapping[str, Bundle], limit: int | None) -> None:
        self.bundles = bundles
        self.in_force: set[str] = set()
        self.loaded: set[str] = set()
        self.known = set(bundles)
        self.metrics = Metrics()
        limits = CacheLimits(limit, grace_s=0, pause_s=0)
        self.root = folder
        self.cache = BundleCache(folder, objects, limits, self.metrics.bundle_store, self._removable)
        self.cache.set_loaded(lambda: {self.key(name) for name in self.loaded})

    def key(self, name: str) -> BundleKey:
        return name, self.bundles[name].version

    def _removable(self) -> dict[BundleKey, bool]:
        return {self.key(name): name in self.in_force for name in self.known}

    def find(self, name: str) -> Callable[[], StoredBundle]:
        bundle = self.bundles[name]
        text = bundle.read_file(MANIFEST).decode()
        return lambda: StoredBundle(name, bundle.digest, text, "available")

    def complete(self, name: str, used_at: float | None = None, *, with_graph: bool = True) -> None:
        self.cache.complete(self.key(name), self.find(name), with_graph=with_graph)
        if used_at is not None:
            os.utime(self.folder(name), (used_at, used_at))

    def folder(self, name: str) -> Path:
        return self.root / name / self.bundles[name].version

    def files(self, name: str) -> set[str]:
        folder = self.folder(name)
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    def is_complete(self, name: str) -> bool:
        return self.files(name) == {MANIFEST, *self.bundles[name].manifest.files}


def size_of(bundle: Bundle) -> int:
    return sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("made")
    return {name: write_tiny_bundle(folder, name) for name in NAMES}


@pytest.fixture
def objects(tmp_path: Path, bundles: Mapping[str, Bundle]) -> WatchedObjects:
    (tmp_path / "store").mkdir()
    store = WatchedObjects(tmp_path / "store")
    for bundle in bundles.values():
        store.store(bundle)
    store.reads.clear()
    return store


def make_bench(tmp_path: Path, objects: WatchedObjects, bundles: Mapping[str, Bundle], count: float) -> Bench:
    """Return a cache for this number of bundles."""
    return Bench(tmp_path / "cache", objects, bundles, int(count * max(map(size_of, bundles.values()))))


def test_least_recently_used_bundle_leaves(tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]) -> None:
    bench = make_bench(tmp_path, objects, bundles, 2.2)
    now = time.time()
    bench.complete("bolt", now - 20)
    bench.complete("nut", now - 30)
    bench.complete("rivet", now)
    assert not bench.folder("nut").exists()
    assert bench.is_complete("bolt")
    assert bench.is_complete("rivet")
    assert bench.cache.used_bytes == sum(size_of(bundles[name]) for name in ("bolt", "rivet"))
    assert bench.metrics.bundle_store.evictions._value.get() == 1
    bench.complete("nut")
    assert bench.is_complete("nut"), "it is downloaded again"


def test_bundles_in_force_leave_last_and_keep_their_description(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 2.9)
    now = time.time()
    bench.in_force = {"bolt", "nut"}
    bench.complete("bolt", now - 30)
    bench.complete("rivet", now - 20)
    bench.complete("nut", now - 10)
    assert bench.is_complete("bolt")
    assert not bench.folder("rivet").exists(), "it is not in force, though it was used later"
    bench.complete("washer", now)
    assert bench.files("bolt") <= DESCRIBED
    assert MANIFEST in bench.files("bolt")
    assert bench.is_complete("nut")


def test_what_is_loaded_in_use_or_not_in_the_store_stays(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 1)
    bench.known.discard("rivet")
    bench.loaded = {"bolt"}
    for name in ("bolt", "nut", "rivet"):
        with bench.cache.held(bench.key("nut")):
            bench.complete(name, time.time() - 10)
    assert all(bench.is_complete(name) for name in ("bolt", "nut", "rivet")), "the limit is exceeded instead"
    bench.complete("washer")
    assert not bench.folder("nut").exists()
    assert bench.is_complete("bolt")
    assert bench.is_complete("rivet")


def test_nothing_is_removed_while_the_database_is_down(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 1)

    def fail() -> dict[BundleKey, bool]:
        raise StoreUnavailable("it is down")

    monkeypatch.setattr(bench.cache, "_removable", fail)
    for name in ("bolt", "nut"):
        bench.complete(name)
    assert bench.is_complete("bolt")
    assert bench.is_complete("nut")


def test_bundle_that_was_used_a_moment_ago_stays(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 1)
    bench.cache._limits = CacheLimits(bench.cache._limits.limit_bytes, grace_s=3600)
    for name in ("bolt", "nut"):
        bench.complete(name)
    assert bench.is_complete("bolt"), "another process may be loading it"


def test_concurrent_calls_share_one_download(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 10)
    objects.may_read.clear()
    threads = [threading.Thread(target=bench.complete, args=("bolt",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert objects.is_held.wait(30)
    objects.may_read.set()
    for thread in threads:
        thread.join(30)
    assert bench.is_complete("bolt")
    assert objects.reads[MODEL] == 1


def test_two_processes_share_a_folder(tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]) -> None:
    benches = [make_bench(tmp_path, objects, bundles, 10) for _ in range(2)]
    objects.may_read.clear()
    threads = [threading.Thread(target=bench.complete, args=("bolt",)) for bench in benches]
    for thread in threads:
        thread.start()
    assert objects.is_held.wait(30)
    objects.may_read.set()
    for thread in threads:
        thread.join(30)
    assert Bundle.load(benches[0].folder("bolt")).digest == bundles["bolt"].digest
    assert not list((tmp_path / "cache" / ".downloads").iterdir())


def test_folder_that_another_process_removes_meanwhile_is_made_again(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench, other = (make_bench(tmp_path, objects, bundles, 10) for _ in range(2))
    bench.complete("bolt", with_graph=False)
    objects.may_read.clear()
    thread = threading.Thread(target=bench.complete, args=("bolt",))
    thread.start()
    assert objects.is_held.wait(30)
    shutil.rmtree(other.folder("bolt"))
    objects.may_read.set()
    thread.join(30)
    assert bench.is_complete("bolt")


def test_only_damaged_files_are_replaced(tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]) -> None:
    bench = make_bench(tmp_path, objects, bundles, 10)
    bench.complete("bolt")
    folder, entries = bench.folder("bolt"), bundles["bolt"].manifest.files
    size = bench.cache.used_bytes
    (folder / MODEL).write_bytes(b"x" * entries[MODEL].bytes)
    (folder / "other").write_bytes(b"x")
    before = (folder / "calibration.json").stat()
    with (folder / MODEL).open("rb") as used:
        bench.cache.remove_damaged(bench.key("bolt"), entries)
        assert bench.files("bolt") == {MANIFEST, *entries} - {MODEL}
        assert used.read() == b"x" * entries[MODEL].bytes, "who has opened it is not affected"
    bench.complete("bolt")
    assert Bundle.load(folder).digest == bundles["bolt"].digest
    assert (folder / "calibration.json").stat() == before, "other users of the bundle keep it"
    assert bench.cache.used_bytes == size - 1, "the other file was not counted"
    bench.cache.trim(is_changed=True)
    assert bench.cache.used_bytes == size


def test_downloads_at_the_same_time_share_the_limit(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 2.2)
    bench.complete("bolt", time.time() - 10)
    objects.may_read.clear()
    threads = [threading.Thread(target=bench.complete, args=(name,)) for name in ("nut", "rivet")]
    for thread in threads:
        thread.start()
    both = sum(size_of(bundles[name]) for name in ("nut", "rivet"))
    wait_for(lambda: bench.cache._reserved == both)
    wait_for(lambda: not bench.folder("bolt").exists())  # though each of them alone would fit beside it
    objects.may_read.set()
    for thread in threads:
        thread.join(30)
    assert bench.cache._reserved == 0
    assert bench.cache.used_bytes == both
    objects.is_down = True
    with pytest.raises(BundleStoreUnavailable):
        bench.complete("washer")
    assert bench.cache._reserved == 0


def test_what_killed_processes_left_is_removed_while_it_runs(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 10)
    bench.complete("bolt")
    left = tmp_path / "cache" / ".downloads" / "left"
    left.write_bytes(b"x")
    os.utime(left, (0, 0))
    bench.cache.trim(is_changed=True)
    assert not left.exists()


def test_upload_in_progress_counts(tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]) -> None:
    bench = make_bench(tmp_path, objects, bundles, 2.2)
    bench.complete("bolt", time.time() - 20)
    complete = bench.cache.used_bytes
    staged = bench.folder("bolt").parent / ".staging-1"
    staged.mkdir()
    (staged / "model.onnx").write_bytes(bytes(complete))
    bench.cache.trim(is_changed=True)
    assert bench.cache.used_bytes == 2 * complete
    bench.complete("nut")
    assert not bench.folder("bolt").exists(), "both do not fit beside the upload"


def test_description_is_completed_without_being_downloaded_again(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 10)
    bench.complete("bolt", with_graph=False)
    assert bench.files("bolt") == {MANIFEST, "calibration.json"}
    Bundle.describe(bench.folder("bolt"))
    bench.complete("bolt")
    Bundle.load(bench.folder("bolt"))
    assert objects.reads["calibration.json"] == 1


def test_failed_request_is_not_repeated_at_once(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 10)
    bench.cache._limits = CacheLimits(None, pause_s=3600)
    objects.is_down = True
    for name in ("bolt", "nut"):
        with pytest.raises(BundleStoreUnavailable, match="it is down"):
            bench.complete(name)
    assert objects.reads.total() == 1, "the second one would wait for the same deadline"


def test_manifest_that_was_changed_in_the_database_is_refused(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 10)
    bolt = bundles["bolt"]
    text = bolt.read_file(MANIFEST).decode()
    for changed in (text.replace(MODEL, "../../model.onnx"), text + " "):
        stored = StoredBundle("bolt", bolt.digest, changed, "available")
        with pytest.raises(BundleDamaged, match="the database has another one"):
            bench.cache.complete(bench.key("bolt"), lambda stored=stored: stored, with_graph=True)  # type: ignore[misc]
    assert not list((tmp_path / "cache").rglob("*.onnx"))


def test_folder_that_cannot_be_written_is_named(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bench = make_bench(tmp_path, objects, bundles, 10)
    (tmp_path / "cache" / ".downloads").write_bytes(b"")
    with pytest.raises(BundleStoreUnavailable, match=r"its cache .* cannot be written"):
        bench.complete("bolt")


@pytest.mark.slow
def test_process_that_is_killed_while_it_downloads_leaves_nothing_half_written(
    tmp_path: Path, objects: WatchedObjects, bundles: dict[str, Bundle]
) -> None:
    bolt = bundles["bolt"]
    script = f"""
import sys
from pathlib import Path
from service.bundle.manifest import MANIFEST
from service.deployment.sources.cache import BundleCache, CacheLimits
from service.monitoring.metrics import Metrics
from service.store.bundles import objects
from service.store.bundles.errors import BundleDamaged
from service.store.bundles.table import StoredBundle

class Slow(objects.LocalObjects):
    def read(self, name, start, length):
        if name.endswith("model.onnx") and start:
            print("downloading", flush=True)
            sys.stdin.read()
        return super().read(name, start, length)

objects.PIECE_BYTES = 100
store = Slow(Path({str(tmp_path / "store")!r}))
cache = BundleCache(Path({str(tmp_path / "cache")!r}), store, CacheLimits(), Metrics().bundle_store, dict)
text = store.read("{bolt.digest}/" + MANIFEST, 0, 2**20).decode()
stored = StoredBundle("bolt", "{bolt.digest}", text, "available")
cache.complete(("bolt", "{bolt.version}"), lambda: stored, with_graph=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"downloading\n"
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdin.close()
    process.stdout.close()
    bench = make_bench(tmp_path, objects, bundles, 10)
    (left,) = (tmp_path / "cache" / ".downloads").iterdir()
    assert left.stat().st_size < bolt.manifest.files[MODEL].bytes
    assert MODEL not in bench.files("bolt")
    for name in bench.files("bolt") - {MANIFEST}:
        assert (bench.folder("bolt") / name).read_bytes() == bolt.read_file(name)
    bench.complete("bolt")
    assert Bundle.load(bench.folder("bolt")).digest == bolt.digest
    os.utime(left, (0, 0))
    make_bench(tmp_path, objects, bundles, 10)
    assert not left.exists(), "removed after a day"
