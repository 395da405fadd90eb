"""Load all products when the service starts, several at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

from service.bundle.errors import BundleIntegrity, BundleInvalid
from service.deployment.failures import BrokenBundle, LoadFailures
from service.errors import PlumblineError, ShuttingDown

log = structlog.get_logger(__name__)
# Products that are loaded at the same time. One that takes long delays the others only if there are several like it.
LOADERS = 4
# Seconds after the start from which products that are still being loaded do not keep the service from being ready.
LOADING_GRACE_S = 20.0


class ProductLoading:
    """Loads products in parallel, and records what it has not processed yet.

    Args:
        models: The model repository, for messages.
        products: The products to load.
        failures: Records the products that cannot be loaded.
        closing: Ends the loading when it is set.
        is_quick: Whether products are only described, which takes milliseconds each. Then the service is not ready
            before all are processed, unless one of them takes long.

    Attributes:
        waiting: Products that are not processed yet.
        finished: Whether `run` has returned.
        ahead_until: Monotonic time until which bundles are loaded ahead before the service is ready.
    """

    def __init__(
        self,
        models: Path,
        products: frozenset[str],
        failures: LoadFailures,
        closing: threading.Event,
        *,
        is_quick: bool = False,
    ) -> None:
        self.waiting = products
        self.finished = False
        self.ahead_until = 0.0
        self._models = models
        self._failures = failures
        self._closing = closing
        self._lock = threading.Lock()
        self._is_quick = is_quick
        self._began = time.monotonic()
        self._was_ready = False
        """Whether `is_waited_for` returned False: a service that was ready stays ready."""

    @property
    def is_recent(self) -> bool:
        """Whether products that are still being loaded keep the service from being ready."""
        return time.monotonic() - self._began < LOADING_GRACE_S

    def is_waited_for(self, *, has_active: bool) -> bool:
        """Return whether the service is not ready because bundles are being loaded. Once False, it stays False.

        Args:
            has_active: Whether any product is in force.
        """
        if not self._was_ready:
            self._was_ready = not self._is_waited_for(has_active=has_active)
        return not self._was_ready

    def run(
        self,
        load_product: Callable[[str], None],
        end_change: Callable[[str], None],
        load_ahead: Callable[[], None],
        ahead_s: float,
    ) -> None:
        """Load every product, and return when all are processed or the service is closing.

        Args:
            load_product: Loads one product. Called from several threads. Whatever it raises is recorded in `failures`.
            end_change: Called for each product after it was processed.
            load_ahead: Called when all products were processed. It loads bundles ahead of the first images.
            ahead_s: Seconds of it for which the service is not ready. A service that was ready meanwhile, because the
                loading took long, stays ready.
        """
        queue = deque(sorted(self.waiting))

        def work() -> None:
            while queue and not self._closing.is_set():
                try:
                    product = queue.popleft()
                except IndexError:
                    return
                try:
                    self._load(product, load_product)
                finally:
                    self._end(product, end_change)

        # Daemon threads: a bundle that hangs must not keep the process from ending.
        count = min(LOADERS, len(queue))
        threads = [threading.Thread(target=work, name=f"loader-{number}", daemon=True) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.is_recent and not self._was_ready:
            self.ahead_until = time.monotonic() + ahead_s
        for product in self.waiting:
            self._end(product, end_change)
        try:
            if not self._closing.is_set():
                load_ahead()
        finally:
            self.finished = True

    def _is_waited_for(self, *, has_active: bool) -> bool:
        if self.finished:
            return False
        if not self.waiting and self.ahead_until:
            return time.monotonic() < self.ahead_until
        return not has_active or self.is_recent

    def _load(self, product: str, load_product: Callable[[str], None]) -> None:
        try:
            load_product(product)
        except ShuttingDown:
            log.info("loading stopped", product=product)
        except Exception as error:  # noqa: BLE001 - recorded; the failure of one product must not affect the others
            failure = known_failure(self._models / product, error)
            self._failures.add_broken(BrokenBundle(product, "unknown", failure.slug, failure.detail))
            log.error("product not served", product=product, reason=failure.detail)

    def _end(self, product: str, end_change: Callable[[str], None]) -> None:
        with self._lock:
            self.waiting -= {product}
            if self._is_quick:
                self._began = time.monotonic()
        end_change(product)


def known_failure(path: Path, error: Exception) -> PlumblineError:
    """Return the error to report if a bundle or a product cannot be loaded.

    Args:
        path: The folder that was read.
        error: What was raised. An unexpected error is logged with its traceback.
    """
    if isinstance(error, PlumblineError):
        return error
    if isinstance(error, OSError):  # the folder was deleted or is not readable
        return BundleIntegrity(path, f"the folder cannot be read ({error.strerror}).")
    if isinstance(error, MemoryError):
        return BundleInvalid(path, "loading it needs more memory than is available.", "Free memory first.")
    log.error("unexpected failure while a bundle was loaded", path=str(path), exc_info=error)
    return BundleInvalid(path, "loading it failed unexpectedly; search the log for this folder.")
