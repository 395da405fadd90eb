"""Bundles that could not be loaded."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from service.errors import PlumblineError


@dataclass(frozen=True)
class BrokenBundle:
    """A bundle that cannot be served, and the reason.

    Attributes:
        product: The product.
        version: The bundle's version.
        slug: Name of the problem, as in `PlumblineError.slug`.
        reason: Description of the problem.
        retry_after_s: Seconds after which it may have ended by itself; None if somebody has to act.
    """

    product: str
    version: str
    slug: str
    reason: str
    retry_after_s: float | None = None

    @property
    def error(self) -> PlumblineError:
        """The reason as an error."""
        waiting = {} if self.retry_after_s is None else {"retry_after": self.retry_after_s}
        return PlumblineError(self.reason, **waiting)


class LoadFailures:
    """The load failures of a registry. Readers take no lock: each collection is immutable and replaced as a whole.

    Attributes:
        broken: Bundles that should be active and could not be loaded.
        refused: All bundles whose last load failed, by product and version, whether they should be active or not.
    """

    def __init__(self) -> None:
        self.broken: tuple[BrokenBundle, ...] = ()
        self.refused: Mapping[tuple[str, str], BrokenBundle] = MappingProxyType({})
        self._lock = threading.Lock()

    def add_broken(self, bundle: BrokenBundle) -> None:
        """Add a bundle to `broken`."""
        with self._lock:
            self.broken = (*self.broken, bundle)

    def replace_broken(self, bundle: BrokenBundle) -> None:
        """Add a bundle to `broken` in place of the other bundles of its product."""
        with self._lock:
            self.broken = (*(other for other in self.broken if other.product != bundle.product), bundle)

    def clear_broken(self, product: str) -> None:
        """Remove all bundles of a product from `broken`."""
        with self._lock:
            self.broken = tuple(bundle for bundle in self.broken if bundle.product != product)

    def clear_transient(self, product: str) -> None:
        """Remove those of a product's bundles from `broken` whose problem may have ended by itself."""
        with self._lock:
            self.broken = tuple(
                bundle for bundle in self.broken if bundle.product != product or bundle.retry_after_s is None
            )

    def discard_broken(self, product: str, version: str) -> None:
        """Remove one bundle from `broken`, if it is there."""
        with self._lock:
            key = product, version
            self.broken = tuple(bundle for bundle in self.broken if (bundle.product, bundle.version) != key)

    def add_refused(self, bundle: BrokenBundle) -> None:
        """Add a bundle to `refused`, or replace its entry."""
        with self._lock:
            self.refused = MappingProxyType({**self.refused, (bundle.product, bundle.version): bundle})

    def clear_refused(self, product: str, version: str) -> None:
        """Remove a bundle from `refused`."""
        with self._lock:
            others = {key: bundle for key, bundle in self.refused.items() if key != (product, version)}
            self.refused = MappingProxyType(others)
