"""The model repository on disk: list its products, and load their bundles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Self

from service.bundle.bundle import Bundle, bundle_folders
from service.bundle.errors import BundleOfOtherProduct, SelfTestFailed
from service.bundle.manifest import PRODUCT_NAME
from service.deployment.passed_tests import PassedSelfTests
from service.errors import ShuttingDown
from service.inspection.inspector import Inspector, InspectorOptions, SelfTestResult, check_parity
from service.inspection.runtime.freed_memory import return_freed_memory
from service.inspection.runtime.isolation import IsolatedSelfTest, SelfTestLimits
from service.inspection.runtime.threads import run_apart


class BundleLoader:
    """Loads bundles: verifies them, runs their self-test in a process of its own, and opens them in this process.

    Can be used from several threads.

    Args:
        options: Options of the inspectors.
        limits: Limits of the self-test. Its timeout also limits the time to open a bundle in this process.
        passed: Self-tests that passed before, which are not repeated; None to run every self-test.
    """

    def __init__(
        self, options: InspectorOptions, limits: SelfTestLimits, passed: PassedSelfTests | None = None
    ) -> None:
        self.options = options
        self._passed = passed
        self._self_test = IsolatedSelfTest(limits)
        self._closing = threading.Event()

    def with_options(self, options: InspectorOptions) -> Self:
        """Return a loader with the same limits and other options. `close` of this loader does not affect it."""
        return type(self)(options, self._self_test.limits, self._passed)

    def load(self, path: Path, product: str | None = None, *, in_background: bool = False) -> Inspector:
        """Load a bundle. The parity of its results is checked each time, in this process.

        Args:
            path: The bundle's folder.
            product: The product that it must have been made for; None to accept any.
            in_background: Run the bundle's threads and its self-test at low priority.

        Raises:
            BundleOfOtherProduct: It was made for another product.
            SelfTestFailed: Its self-test exceeded a limit, or it could not be opened in time.
            BundleInvalid, ProviderUnavailable: As for `Inspector.load`.
            ShuttingDown: `close` was called.
        """
        bundle = self.verify(path, product, in_background=in_background)
        return self._open(bundle, lambda: Inspector.open(bundle, self.options), in_background=in_background)

    def describe(self, path: Path, product: str) -> Bundle:
        """Read what is needed to decide with a bundle, without its graph; see `Bundle.describe`.

        Args:
            path: The bundle's folder.
            product: The product that it must have been made for.

        Raises:
            BundleOfOtherProduct: It was made for another product.
            BundleInvalid: As for `Bundle.describe`.
        """
        bundle = Bundle.describe(path)
        _require_product(bundle, product)
        return bundle

    def reload(self, bundle: Bundle, passed: SelfTestResult, *, in_background: bool = False) -> Inspector:
        """Load a bundle again that this loader had loaded before. Its self-test is not repeated as a whole.

        Args:
            bundle: The bundle, as it was loaded.
            passed: The result of its self-test then.
            in_background: As for `load`.

        Raises:
            BundleIntegrity: Its files were changed.
            SelfTestFailed, BundleInvalid, ProviderUnavailable, ShuttingDown: As for `load`.
        """
        return self._open(bundle, lambda: Inspector.reopen(bundle, self.options, passed), in_background=in_background)

    def _open(self, bundle: Bundle, work: Callable[[], Inspector], *, in_background: bool) -> Inspector:
        timeout_s = self._self_test.limits.timeout_s
        try:
            return run_apart(
                work,
                timeout_s=timeout_s,
                stop=self._closing,
                discard=Inspector.close,
                in_background=in_background,
            )
        except InterruptedError as error:
            raise ShuttingDown() from error
        except TimeoutError as error:
            reason = f"it could not be opened within {timeout_s:g} s (PLUMBLINE_SELF_TEST_TIMEOUT_S)."
            raise SelfTestFailed(bundle.path, reason) from error
        finally:
            return_freed_memory()

    def self_test_facts(self, bundle: Bundle) -> list[object]:
        """Return what identifies the self-test of a bundle in `PassedSelfTests`."""
        session, max_batch = self.options.session, self.options.batching.max_batch
        return [bundle.digest, session.threads, max_batch, self._self_test.limits]

    def verify(self, path: Path, product: str | None = None, *, in_background: bool = False) -> Bundle:
        """Verify a bundle and run its self-test in a process of its own, without opening it in this process.

        Args:
            path: The bundle's folder.
            product: As for `load`.
            in_background: Run the self-test at low priority.

        Raises:
            BundleOfOtherProduct, SelfTestFailed, BundleInvalid, ProviderUnavailable, ShuttingDown: As for `load`.
        """
        bundle = Bundle.load(path)
        _require_product(bundle, product)
        self._run_self_test(bundle, in_background=in_background)
        return bundle

    def close(self) -> None:
        """End the loading of bundles, and refuse to load further ones."""
        self._closing.set()
        self._self_test.close()

    def _run_self_test(self, bundle: Bundle, *, in_background: bool) -> None:
        session, max_batch = self.options.session, self.options.batching.max_batch
        facts = self.self_test_facts(bundle)
        if self._passed is not None and self._passed.contains(facts):
            return
        difference = self._self_test.run(bundle, session, max_batch, in_background=in_background)
        if session.provider == "cpu":
            check_parity(bundle, "cpu", difference)
        if self._passed is not None:
            self._passed.add(facts)


def _require_product(bundle: Bundle, product: str | None) -> None:
    made_for = bundle.manifest.product
    if product is not None and made_for != product:
        raise BundleOfOtherProduct(bundle.path, made_for, product)


def product_folders(models: Path, besides: Set[str] = frozenset()) -> Iterator[str]:
    """Yield the names of the products in a model repository, sorted.

    Args:
        models: The model repository.
        besides: Products that are left out without a look into their folders.

    Raises:
        OSError: The repository cannot be read.
    """
    if not models.is_dir():
        return
    for folder in sorted(models.iterdir()):
        if folder.name in besides or folder.name.startswith(".") or not folder.is_dir():
            continue
        if PRODUCT_NAME.fullmatch(folder.name) and _may_contain_bundles(folder):
            yield folder.name


def empty_reason(models: Path) -> str:
    """Return why a model repository has no products, as the predicate of a sentence."""
    return "holds no bundle" if models.is_dir() else "does not exist"


def _may_contain_bundles(product_folder: Path) -> bool:
    try:
        return any(bundle_folders(product_folder))
    except OSError:
        return True  # so that loading it reports the folder as broken
