"""Prepare bundles to be put in force: load them, or read their descriptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.bundle.bundle import Bundle
from service.bundle.errors import BundleInvalid
from service.deployment.bundle_memory import BundleMemory
from service.deployment.errors import UnknownBundle
from service.deployment.failures import BrokenBundle, LoadFailures
from service.deployment.loading import known_failure
from service.deployment.repository import BundleLoader
from service.deployment.served import ServedBundle
from service.deployment.sources.source import BundleSource
from service.errors import PlumblineError, ShuttingDown
from service.inspection.inspector import Inspector
from service.store.bundles.errors import BundleRemoved
from service.store.errors import BundleStoreUnavailable, StoreUnavailable


class BundlePreparation:
    """Loads or describes bundles, and records those that are refused.

    Args:
        source: Where the bundles come from.
        loader: Loads bundles.
        memory: Loads them on demand later.
        failures: Records the bundles that are refused.
    """

    def __init__(
        self, source: BundleSource, loader: BundleLoader, memory: BundleMemory, failures: LoadFailures
    ) -> None:
        self._source = source
        self._loader = loader
        self._memory = memory
        self._failures = failures

    def load(self, product: str, version: str, *, in_background: bool = False) -> ServedBundle:
        """Load and test a bundle.

        Args:
            product: The product.
            version: The bundle's version.
            in_background: Run the bundle's threads at lower priority than those of other bundles.

        Raises:
            BundleInvalid, ProviderUnavailable: It cannot be served. The failure is added to `LoadFailures.refused`.
            UnknownBundle, BundleRemoved, BundleStoreUnavailable, StoreUnavailable: It cannot be fetched.
            ShuttingDown: The loader is closed.
        """
        with self._recording_refusal(product, version):
            inspector = self._source.use(
                product, version, lambda path: self._loader.load(path, product, in_background=in_background)
            )
            self._require_possible(inspector)
        served = self._serve(inspector.bundle, inspector, in_background=in_background)
        self._memory.adopt(served)
        return served

    def prepare(
        self, product: str, version: str, replaced: ServedBundle | None, *, in_background: bool = False
    ) -> ServedBundle:
        """Load a bundle, or read its description only if it is loaded on demand.

        Args:
            product: The product.
            version: The bundle's version.
            replaced: The bundle that it replaces. If that is in memory, the new one is loaded, too.
            in_background: As for `load`.

        Raises:
            BundleInvalid, ProviderUnavailable, ShuttingDown: As for `load`.
            UnknownBundle, BundleRemoved, BundleStoreUnavailable, StoreUnavailable: As for `load`.
        """
        is_used = replaced is not None and replaced.is_loaded
        if is_used or self._memory.limits.keeps(product):
            return self.load(product, version, in_background=in_background)
        with self._recording_refusal(product, version):
            bundle = self._source.use(
                product, version, lambda path: self._loader.describe(path, product), with_graph=False
            )
        return self._serve(bundle, None, in_background=in_background)

    @contextmanager
    def _recording_refusal(self, product: str, version: str) -> Iterator[None]:
        path = self._source.root / product / version
        try:
            yield
        except (ShuttingDown, UnknownBundle, BundleRemoved, BundleStoreUnavailable, StoreUnavailable):
            raise  # nothing is known about the bundle
        except Exception as error:  # raised as a failure of this bundle
            if isinstance(error, PlumblineError) and error.retry_after_s is not None:
                raise  # nor here: what runs graphs is not available
            failure = known_failure(path, error)
            self._failures.add_refused(BrokenBundle(product, version, failure.slug, failure.detail))
            raise failure from (None if failure is error else error)
        self._failures.clear_refused(product, version)

    def _require_possible(self, inspector: Inspector) -> None:
        """Refuse a bundle that fits now, beside others that leave, but could never be loaded on demand again."""
        if self._memory.limits.keeps(inspector.bundle.manifest.product):
            return
        try:
            self._memory.require_possible(inspector.bundle)
        except BundleInvalid:
            inspector.close()
            raise

    def _serve(self, bundle: Bundle, inspector: Inspector | None, *, in_background: bool) -> ServedBundle:
        is_pinned = self._memory.limits.keeps(bundle.manifest.product)
        return ServedBundle(bundle, self._memory, inspector, is_pinned=is_pinned, in_background=in_background)
