"""A bundle that is in force or in shadow deployment, whether its graph is in memory or not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Protocol

import structlog

from service.bundle.bundle import Bundle
from service.deployment.errors import ProductNotReady
from service.errors import PlumblineError, ShuttingDown
from service.inspection.bundle_rules import BundleRules
from service.inspection.inspector import Inspector, SelfTestResult
from service.inspection.runtime.session import Provider

log = structlog.get_logger(__name__)
DRAIN_TIMEOUT_S = 60.0
_POLL_S = 0.1
LOAD_WAIT_S = 30.0
"""Seconds that a lease waits for a bundle that is not in memory, if its caller has no deadline."""

LoadResult = Future[PlumblineError | None]
"""The result of a load: the reason why it failed, or None. It never raises."""


class Memory(Protocol):
    """Loads bundles, and is told when one was unloaded."""

    def request(self, served: ServedBundle) -> LoadResult:
        """Load a bundle unless it is being loaded, and return the result of the load."""

    def count_lease(self, *, is_hit: bool) -> None:
        """Count a lease, by whether the bundle was in memory."""

    def retry_after_s(self) -> float:
        """Return the seconds after which a load that begins now is likely to have ended."""

    def forget(self, served: ServedBundle) -> None:
        """Take note that a bundle has left the memory."""


class ServedBundle:
    """A bundle that serves, and its inspector while that is in memory.

    Leases keep the inspector: it is closed when the bundle was retired or has to leave the memory, and the last lease
    has ended. A lease on a bundle that is not in memory waits until it is loaded.

    Args:
        bundle: The bundle.
        memory: Loads it.
        inspector: Its inspector, if it is loaded. Only this object closes it.
        is_pinned: Whether it stays in memory as long as it serves.
        in_background: Whether its threads run at low priority, as those of a shadow deployment do.
        clock: Monotonic time in seconds.

    Attributes:
        rules: What the bundle determines beside its graph.
        ended: Set when the bundle is retired and its inspector closed.
        passed: Result of its self-test; None before it was loaded for the first time.
        used_at: When it was last loaded or leased.
        used_before: When the lease before the last one began, whether the bundle was in memory since or not; minus
            infinity if there was none. The time of its load, while it was not leased since: its image waits for it.
            A bundle that was loaded to be put in force counts as leased then, as it replaces one that was used.
        stays_until: It is not unloaded in favour of another bundle before this time.
    """

    def __init__(
        self,
        bundle: Bundle,
        memory: Memory,
        inspector: Inspector | None = None,
        *,
        is_pinned: bool = True,
        in_background: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = BundleRules(bundle)
        self.is_pinned = is_pinned
        self.in_background = in_background
        self.ended = threading.Event()
        self.passed: SelfTestResult | None = None if inspector is None else inspector.self_test_result
        self.used_at = self.used_before = self.stays_until = self._installed_at = clock()
        self._memory = memory
        self._clock = clock
        self._inspector = inspector
        self._lock = threading.Lock()
        self._leases = 0
        self._leased_at = -math.inf if inspector is None else self.used_at
        self._is_retired = False
        self._is_leaving = False

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self.rules.bundle

    @property
    def inspector(self) -> Inspector:
        """The inspector. It may be used during a lease only."""
        inspector = self._inspector
        if inspector is None:
            raise RuntimeError(f"{self.bundle.path} is not in memory; take a lease to use its inspector")
        return inspector

    @property
    def provider(self) -> Provider | None:
        """The execution provider that runs the graph, or ran it last; None before it was loaded for the first time."""
        return None if self.passed is None else self.passed.provider

    @property
    def concurrency(self) -> int | None:
        """The number of runs that may be in progress at the same time; None while the bundle is not in memory."""
        inspector = self._inspector
        return None if inspector is None else inspector.batcher.concurrency

    @property
    def is_loaded(self) -> bool:
        """Whether a lease need not wait."""
        return self._inspector is not None and not self._is_leaving

    @property
    def is_leaving(self) -> bool:
        """Whether it is unloaded as soon as its last lease ends."""
        return self._is_leaving

    @property
    def is_retired(self) -> bool:
        """Whether `retire` was called."""
        return self._is_retired

    def acquire(self, timeout_s: float = LOAD_WAIT_S) -> bool:
        """Take a lease, and wait until the bundle is in memory.

        Args:
            timeout_s: Longest wait in seconds. The load continues afterwards.

        Returns:
            False if the bundle is retired.

        Raises:
            ProductNotReady: It cannot be loaded, or was not loaded in time.
            ShuttingDown: The registry is closed.
        """
        give_up, is_hit = time.monotonic() + timeout_s, True
        while not self.try_acquire():
            if self._is_retired:
                return False
            is_hit = False
            self.wait_loaded(give_up - time.monotonic())
        self._memory.count_lease(is_hit=is_hit)
        return True

    def try_acquire(self) -> bool:
        """Take a lease if the bundle is in memory. Return whether it was taken."""
        with self._lock:
            if self._is_retired or not self.is_loaded:
                return False
            self._leases += 1
            self.used_at = self._clock()
            self.used_before, self._leased_at = self._leased_at, self.used_at
            return True

    def wait_loaded(self, timeout_s: float) -> None:
        """Wait until the bundle is loaded or retired. Its load begins if it did not before.

        Args:
            timeout_s: Longest wait in seconds. The load continues afterwards.

        Raises:
            ProductNotReady, ShuttingDown: As for `acquire`.
        """
        load = self._memory.request(self)
        wait([load], max(0.0, timeout_s))
        require_loaded(self.bundle.manifest.product, load, self._memory.retry_after_s())

    def release(self) -> None:
        """End a lease that `acquire` took."""
        with self._lock:
            self._leases -= 1
            self.used_at = self._clock()
            closing = self._take_out()
        self._close(closing)

    def install(self, inspector: Inspector, stay_s: float) -> bool:
        """Take an inspector that was loaded.

        Args:
            inspector: The inspector.
            stay_s: Seconds for which it is not unloaded in favour of another bundle.

        Returns:
            False if the bundle was retired meanwhile; the caller closes the inspector.
        """
        with self._lock:
            if self._is_retired:
                return False
            self._inspector, self.passed = inspector, inspector.self_test_result
            self._is_leaving = False
            self.used_at = self.used_before = self._installed_at = self._clock()
            self.stays_until = self.used_at + stay_s
            return True

    def set_loaded_ahead(self, used_at: float) -> None:
        """Count the bundle as used at an earlier time only, unless it was leased since it was loaded.

        Args:
            used_at: That time, so that it leaves the memory before bundles that were used later.
        """
        with self._lock:
            if not self._leases and self.used_at == self._installed_at:
                self.used_at = self.used_before = self.stays_until = self._installed_at = self._leased_at = used_at

    def unload(self, *, when_unused: bool = False) -> Inspector | None:
        """Unload the bundle.

        Args:
            when_unused: If it is in use, grant no further leases, and unload it when the last one ends.

        Returns:
            The inspector, which the caller closes; None if it stays for now.
        """
        with self._lock:
            if self._is_retired or self._inspector is None:
                return None
            if self._leases and not when_unused:
                return None
            self._is_leaving = True
            return self._take_out()

    def retire(self) -> None:
        """Refuse new leases, and close the inspector when the last lease ends."""
        with self._lock:
            is_first = not self._is_retired
            self._is_retired = True
            closing = self._take_out()
            is_unloaded = is_first and closing is None and self._inspector is None
        self._close(closing)
        if is_unloaded:
            self.ended.set()

    def retire_and_wait(self, is_closing: Callable[[], bool]) -> None:
        """Retire the bundle, and wait until its inspector is closed.

        An inspection ends at its deadline at the latest. One that takes longer is not waited for, and closes the
        inspector itself when it ends.

        Args:
            is_closing: Returns whether the service is stopping; then there is no wait.
        """
        self.retire()
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while not self.ended.wait(_POLL_S) and not is_closing():
            if time.monotonic() > deadline:
                log.error("bundle still in use", version=self.bundle.version, timeout_s=DRAIN_TIMEOUT_S)
                break

    def close(self) -> None:
        """Finish the pending inspections, and refuse further ones with `ShuttingDown`."""
        inspector = self._inspector
        if inspector is not None:
            inspector.close(drain=True)

    def _take_out(self) -> Inspector | None:
        """Return the inspector to close, if it has to leave and is not in use. The lock is held."""
        if self._leases or not (self._is_retired or self._is_leaving):
            return None
        inspector, self._inspector = self._inspector, None
        self._is_leaving = False
        return inspector

    def _close(self, inspector: Inspector | None) -> None:
        if inspector is None:
            return
        inspector.close(drain=True)
        self._memory.forget(self)
        if self._is_retired:
            self.ended.set()


def ended_load(failure: PlumblineError | None) -> LoadResult:
    """Return the result of a load that has ended."""
    result: LoadResult = Future()
    result.set_result(failure)
    return result


def require_loaded(product: str, load: LoadResult, retry_after_s: float) -> None:
    """Check that a bundle was loaded.

    Args:
        product: Its product.
        load: The result of the load, which may not have ended.
        retry_after_s: Seconds after which it is likely to have ended.

    Raises:
        ProductNotReady: The load failed, or has not ended.
        ShuttingDown: It was refused because the registry is closed.
    """
    if not load.done():
        raise ProductNotReady(product, "its bundle is being loaded.", retry_after_s)
    failure = load.result()
    if isinstance(failure, ShuttingDown):
        raise ShuttingDown()
    if failure is not None:
        raise ProductNotReady(product, failure.detail, failure.retry_after_s)
