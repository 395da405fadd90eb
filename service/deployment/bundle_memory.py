"""The memory of loaded bundles: load them on demand, and unload others for them.

The bundle whose last use but one is the longest ago leaves first (LRU-2); without one, it leaves before all others. So
images of many products, one of each, as from a replica that is away, do not replace bundles that are used regularly.

A bundle that was loaded stays for a while (`stay_s`), even if others need its memory. Without that, two products that
do not fit into the memory together would replace each other with every image, and the service would only load bundles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from service.bundle.bundle import Bundle
from service.bundle.errors import BundleIntegrity, BundleInvalid
from service.deployment.failures import BrokenBundle, LoadFailures
from service.deployment.loading import known_failure
from service.deployment.memory_limits import MemoryLimits, memory_bytes, stay_s
from service.deployment.repository import BundleLoader
from service.deployment.retries import LoadRetries
from service.deployment.served import LoadResult, ServedBundle, ended_load
from service.deployment.sources.source import BundleSource
from service.errors import PlumblineError, ShuttingDown
from service.inspection.inspector import Inspector
from service.inspection.runtime.freed_memory import return_freed_memory
from service.monitoring.memory_metrics import MemoryMetrics
from service.store.errors import BundleStoreUnavailable
from service.store.records import Role

log = structlog.get_logger(__name__)

LOADERS = 2
"""Bundles that are loaded on demand at the same time. More would take the cores from the inspections."""
FETCHERS = 4
"""Bundles that are fetched from the bundle store at the same time. Loads of bundles on the local disk do not wait."""
_POLL_S = 1.0
_MIN_RETRY_S = 1.0
_SMOOTHING = 0.2  # weight of the newest duration in the moving average


class BundleMemory:
    """Loads bundles on demand within a limit.

    Each bundle is loaded once, however many requests wait for it. If the memory is used up, bundles leave; one that is
    in use leaves when its last lease ends. Pinned bundles stay.

    Locks:
        `_changed` protects the mappings. It is taken before the lock of a `ServedBundle`, never after it, and it is not
        held while a bundle is loaded or closed.

    Args:
        loader: Loads bundles.
        source: Where the bundles come from.
        limits: Which bundles stay in memory.
        failures: Records the bundles that cannot be loaded.
        retries: When bundles that were refused are loaded again.
        metrics: Counts leases, loads and evictions.
        on_loaded: Called with each bundle that was loaded on demand.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        loader: BundleLoader,
        source: BundleSource,
        limits: MemoryLimits,
        failures: LoadFailures,
        retries: LoadRetries,
        metrics: MemoryMetrics,
        on_loaded: Callable[[ServedBundle], None] = lambda _served: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._loader = loader
        self._source = source
        self._failures = failures
        self._retries = retries
        self._metrics = metrics
        self._on_loaded = on_loaded
        self._clock = clock
        self._changed = threading.Condition()
        self._sizes: dict[ServedBundle, int] = {}
        """Memory of the bundles that are loaded or being loaded, in bytes."""
        self._loads: dict[ServedBundle, LoadResult] = {}
        self._unreachable: set[tuple[str, str]] = set()
        """Bundles that could not be fetched in an outage of the bundle store."""
        self._reserving: list[ServedBundle] = []
        """Bundles that need memory, in the order in which they get it."""
        self._mean_load_s = _MIN_RETRY_S
        self._closed = False
        self._threads = ThreadPoolExecutor(LOADERS, thread_name_prefix="on-demand")
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch") if source.is_shared else None
        # Looks at the files of bundles, which the event loop must not do, and which must not wait for a load.
        self._beginner = ThreadPoolExecutor(1, thread_name_prefix="bundle-files")
        metrics.set_memory(lambda: len(self._sizes), lambda: self.used_bytes, limits.limit_bytes)

    @property
    def used_bytes(self) -> int:
        """Memory of the bundles that are loaded or being loaded."""
        with self._changed:
            return self._used()

    def adopt(self, served: ServedBundle) -> None:
        """Count a bundle that was loaded to be put in force, and unload others if the limit is exceeded."""
        with self._changed:
            self._sizes[served] = memory_bytes(served.bundle.manifest)
        while (victim := self._find_victim(served)) is not None:
            self._evict(*victim)

    def require_possible(self, bundle: Bundle) -> None:
        """Check that a bundle that is not pinned fits if all others that are not pinned leave.

        Raises:
            BundleInvalid: It does not fit.
        """
        size, limit = memory_bytes(bundle.manifest), self.limits.limit_bytes
        largest: dict[tuple[str, Role], int] = {}
        with self._changed:
            for other in self._sizes:
                if other.is_pinned:
                    product, role, _ = _what(other)
                    # While a pinned bundle is replaced, there are two of them for a moment.
                    largest[product, role] = max(self._sizes[other], largest.get((product, role), 0))
        pinned = sum(largest.values())
        if limit is not None and pinned + size > limit:
            beside = f", of which pinned products take {pinned / 2**20:.0f} MiB" if pinned else ""
            raise BundleInvalid(
                bundle.path,
                f"it needs about {size / 2**20:.0f} MiB of memory, and all bundles together may take "
                f"{limit / 2**20:.0f} MiB{beside}.",
                "Raise PLUMBLINE_BUNDLE_MEMORY_BYTES or pin fewer products, and restart the service.",
            )

    def request(self, served: ServedBundle) -> LoadResult:
        """Load a bundle unless it is loaded or being loaded, and return the result of the load.

        If it was refused a short time ago, the result is the reason. It may be called on the event loop: files are
        looked at on another thread.
        """
        with self._changed:
            if (load := self._loads.get(served)) is not None:
                return load
            if self._closed:
                return ended_load(ShuttingDown())
            if served.is_loaded:
                return ended_load(None)
            load = self._loads[served] = Future()
            if self._fetchers is not None or self._retries.has_failed(*_what(served)):
                self._beginner.submit(self._begin, served, load)
            else:
                self._threads.submit(self._load, served, load)
            return load

    def count_lease(self, *, is_hit: bool) -> None:
        """Count a lease, by whether the bundle was in memory."""
        self._metrics.count_lease(is_hit=is_hit)

    def retry_after_s(self) -> float:
        """Return the seconds after which a load that begins now is likely to have ended."""
        return round(max(_MIN_RETRY_S, self._mean_load_s * (1 + len(self._loads) / LOADERS)), 1)

    def forget(self, served: ServedBundle) -> None:
        """Take note that a bundle has left the memory."""
        with self._changed:
            self._sizes.pop(served, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse further loads. Those in progress end as soon as the loader is closed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._beginner.shutdown(wait=False)
        self._threads.shutdown(wait=False)
        if self._fetchers is not None:
            self._fetchers.shutdown(wait=False)

    @property
    def is_loading(self) -> bool:
        """Whether a bundle is being loaded or fetched."""
        return bool(self._loads)

    def has_room_for(self, served: ServedBundle) -> bool:
        """Return whether a bundle can be loaded without unloading another one."""
        with self._changed:
            return self._missing(memory_bytes(served.bundle.manifest)) <= 0

    def _begin(self, served: ServedBundle, load: LoadResult) -> None:
        """Load a bundle if it is on the local disk; otherwise, fetch it first. Refuse it if it failed a moment ago."""
        if (refusal := self._refusal(served)) is not None:
            self._end(served, load, refusal)
            return
        is_local = self._source.is_local(served.bundle)
        with self._changed:
            if not self._closed:
                if is_local or self._fetchers is None:
                    self._threads.submit(self._load, served, load)
                else:
                    self._fetchers.submit(self._fetch, served, load)
                return
        self._load(served, load)  # ends at once, because the memory is closed

    def _refusal(self, served: ServedBundle) -> PlumblineError | None:
        """Return why a bundle is not loaded now; None if its load is due."""
        if self._retries.is_due(*_what(served)):
            return None
        refused = self._failures.refused.get((served.bundle.manifest.product, served.bundle.version))
        return None if refused is None else refused.error

    def _fetch(self, served: ServedBundle, load: LoadResult) -> None:
        """Fetch a bundle from the bundle store, and load it then."""

        def fetch() -> None:
            self._source.fetch(served.bundle.manifest.product, served.bundle.version)
            self._end_outage()
            with self._changed:
                if self._closed:
                    raise ShuttingDown()
                self._threads.submit(self._load, served, load)

        if (failure := self._failure_of(served, fetch)) is not None:
            self._end(served, load, failure)

    def _end_outage(self) -> None:
        """Take note that the bundle store can be reached: what could not be fetched is fetched by its next image."""
        with self._changed:
            unreachable, self._unreachable = self._unreachable, set()
        for product, version in unreachable:
            self._failures.discard_broken(product, version)

    def _load(self, served: ServedBundle, load: LoadResult) -> None:
        self._end(served, load, self._failure_of(served, lambda: self._load_into_memory(served)))

    def _failure_of(self, served: ServedBundle, work: Callable[[], None]) -> PlumblineError | None:
        """Run a function, and return why it failed, which is recorded for the bundle; None if it did not."""
        try:
            work()
        except ShuttingDown as error:
            return error
        except Exception as error:  # noqa: BLE001 - reported to the requests that wait, and recorded for this bundle
            return self._record(served, error)
        return None

    def _end(self, served: ServedBundle, load: LoadResult, failure: PlumblineError | None) -> None:
        with self._changed:
            del self._loads[served]
        load.set_result(failure)

    def _load_into_memory(self, served: ServedBundle) -> None:
        if served.is_retired:
            return
        self._reserve(served)
        is_installed = False
        try:
            started = self._clock()
            inspector = self._open(served)
            load_s = self._clock() - started
            is_installed = not self._closed and served.install(inspector, stay_s(load_s))
            if not is_installed:
                inspector.close()
        finally:
            if not is_installed:
                self.forget(served)
        if self._closed:
            raise ShuttingDown()
        self._metrics.load_seconds.observe(load_s)
        self._mean_load_s += _SMOOTHING * (load_s - self._mean_load_s)
        product, role, _ = _what(served)
        if self._retries.clear(product, role):
            self._failures.clear_refused(product, served.bundle.version)
            self._failures.discard_broken(product, served.bundle.version)
        self._on_loaded(served)
        log.info("bundle loaded", product=product, version=served.bundle.version, seconds=round(load_s, 3))

    def _open(self, served: ServedBundle) -> Inspector:
        bundle = served.bundle
        return self._source.use(bundle.manifest.product, bundle.version, lambda _: self._open_local(served))

    def _open_local(self, served: ServedBundle) -> Inspector:
        bundle, in_background = served.bundle, served.in_background
        if served.passed is not None:
            return self._loader.reload(bundle, served.passed, in_background=in_background)
        inspector = self._loader.load(bundle.path, bundle.manifest.product, in_background=in_background)
        if inspector.bundle.digest != bundle.digest:
            inspector.close()
            raise BundleIntegrity(bundle.path, "its manifest was changed since the service started.")
        return inspector

    def _record(self, served: ServedBundle, error: Exception) -> PlumblineError:
        failure = known_failure(served.bundle.path, error)
        product, role, wanted = _what(served)
        broken = BrokenBundle(product, served.bundle.version, failure.slug, failure.detail, failure.retry_after_s)
        self._failures.add_refused(broken)
        if role == "active":
            if type(error) is BundleStoreUnavailable:  # not damaged, which somebody has to repair
                with self._changed:
                    self._unreachable.add((product, broken.version))
            self._failures.discard_broken(product, broken.version)
            self._failures.add_broken(broken)
        self._retries.add_failure(product, role, wanted)
        self._metrics.load_failures.inc()
        log.error("bundle not loaded", product=product, version=broken.version, reason=failure.detail)
        return failure

    def _reserve(self, served: ServedBundle) -> None:
        """Reserve memory for a bundle, and unload others as far as needed.

        Raises:
            BundleInvalid: It does not fit even if all bundles that are not pinned leave.
            ShuttingDown: `close` was called.
        """
        size, has_evicted = memory_bytes(served.bundle.manifest), False
        with self._changed:
            self._reserving.append(served)
        try:
            while True:
                with self._changed:
                    if self._closed:
                        raise ShuttingDown()
                    # One that was in use when it had to leave may still be in memory.
                    is_next = self._reserving[0] is served and served not in self._sizes
                    if is_next:
                        self.require_possible(served.bundle)
                        if self._missing(size) <= 0:
                            self._sizes[served] = size
                            break
                    victim = self._choose(served, size) if is_next else None
                    if victim is None:
                        self._changed.wait(self._pause_s())
                        continue
                self._evict(*victim)
                has_evicted = True
        finally:
            with self._changed:
                self._reserving.remove(served)
                self._changed.notify_all()
        if has_evicted:
            return_freed_memory()

    def _find_victim(self, newcomer: ServedBundle) -> tuple[ServedBundle, Inspector] | None:
        with self._changed:
            return None if self._missing(0) <= 0 else self._choose(newcomer, 0)

    def _choose(self, newcomer: ServedBundle, size: int) -> tuple[ServedBundle, Inspector] | None:
        """Return the bundle to close now in favour of another one. If all are in use, let the oldest leave later.

        The lock is held.
        """
        now = self._clock()
        movable = sorted(self._movable(newcomer), key=lambda other: (other.used_before, other.used_at))
        candidates = [other for other in movable if other.stays_until <= now]
        for other in candidates:
            if (inspector := other.unload()) is not None:
                return other, inspector
        leaving = sum(size for other, size in self._sizes.items() if other.is_leaving)
        for other in candidates:
            if leaving >= self._missing(size):
                break
            if other.is_loaded:
                leaving += self._sizes[other]
                if (inspector := other.unload(when_unused=True)) is not None:
                    return other, inspector
                self._metrics.evictions.inc()
        return None

    def _movable(self, newcomer: ServedBundle) -> Iterator[ServedBundle]:
        for other in self._sizes:
            if not other.is_pinned and other is not newcomer and other not in self._loads:
                yield other

    def _evict(self, served: ServedBundle, inspector: Inspector) -> None:
        inspector.close()
        self._metrics.evictions.inc()
        self.forget(served)
        log.info("bundle unloaded", product=served.bundle.manifest.product, version=served.bundle.version)

    def _pause_s(self) -> float:
        """Return the seconds until the next bundle may leave. The lock is held."""
        now = self._clock()
        waits = [other.stays_until - now for other in self._sizes if not other.is_pinned and other.stays_until > now]
        return min([_POLL_S, *waits])

    def _missing(self, size: int) -> int:
        """Return by how many bytes the limit would be exceeded. The lock is held."""
        limit = self.limits.limit_bytes
        return 0 if limit is None else self._used() + size - limit

    def _used(self) -> int:
        return sum(self._sizes.values())


def _what(served: ServedBundle) -> tuple[str, Role, str]:
    """Return product and role of a bundle, and its digest."""
    bundle = served.bundle
    return bundle.manifest.product, "shadow" if served.in_background else "active", bundle.digest
