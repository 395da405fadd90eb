"""Where bundles come from: the model repository, a folder, or the bundle store with a local cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from service.bundle.bundle import Bundle
from service.bundle.errors import BundleInvalid
from service.bundle.manifest import Digest, Manifest
from service.deployment.errors import UnknownBundle
from service.errors import PlumblineError
from service.store.bundles.errors import BundleRemoved

ResultT = TypeVar("ResultT")
BundleKey = tuple[str, str]
"""Product and version of a bundle."""


class BundleSource(ABC):
    """The bundles that can be served, by product and version. Methods may be called from several threads, and block.

    Args:
        root: Local folder of the bundles: that of a bundle is `<root>/<product>/<version>/`.

    Attributes:
        root: Local folder of the bundles.
        is_shared: Whether the bundles are in the bundle store, which other processes use, too.
    """

    is_shared = False

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def products(self, besides: Set[str] = frozenset()) -> set[str]:
        """Return the names of the products.

        Args:
            besides: Products that are left out.

        Raises:
            OSError: The folder cannot be read.
            StoreUnavailable: The database cannot be read.
        """

    @abstractmethod
    def versions(self, product: str) -> list[str]:
        """Return the versions of a product's bundles, newest first; none for an unknown product.

        Raises:
            OSError: The folder cannot be read.
            StoreUnavailable: The database cannot be read.
        """

    @abstractmethod
    def manifest(self, product: str, version: str) -> tuple[Manifest, Digest]:
        """Return the manifest of a bundle and its digest. Nothing is fetched.

        Raises:
            BundleInvalid: It cannot be read, or the bundle is known to be damaged.
            UnknownBundle, BundleRemoved: There is no such bundle.
            StoreUnavailable: The database cannot be read.
        """

    @abstractmethod
    def is_local(self, bundle: Bundle) -> bool:
        """Return whether all files of a bundle are on the local disk. Their content is not examined."""

    @abstractmethod
    def fetch(self, product: str, version: str) -> None:
        """Make sure that all files of a bundle are on the local disk.

        Raises:
            UnknownBundle, BundleRemoved: There is no such bundle.
            BundleStoreUnavailable: It cannot be fetched, or is damaged in the bundle store.
            StoreUnavailable: The database cannot be read.
        """

    @abstractmethod
    def use(self, product: str, version: str, work: Callable[[Path], ResultT], *, with_graph: bool = True) -> ResultT:
        """Run a function with the folder of a bundle, which is on the local disk meanwhile.

        Args:
            product: The product.
            version: The bundle's version.
            work: The function. It may be called a second time, if files on the local disk turn out to be damaged and
                could be fetched again.
            with_graph: Whether the function needs all files; otherwise, only manifest, card and list of images are in
                the folder for certain.

        Returns:
            What the function returns.

        Raises:
            UnknownBundle, BundleRemoved, BundleStoreUnavailable, StoreUnavailable: As for `fetch`.
            Exception: What the function raises.
        """

    @abstractmethod
    def store(self, bundle: Bundle) -> Callable[[], bool]:
        """Store the files of a bundle, and return a function that makes it visible.

        Args:
            bundle: The bundle, with its files on the local disk.

        Returns:
            A function that adds the bundle to the list of bundles, and returns whether it was not there before.

        Raises:
            BundleStoreUnavailable: The files cannot be stored.
        """

    @property
    def repository(self) -> Path | None:
        """The model repository; None if the bundles are in the bundle store."""
        return None if self.is_shared else self.root

    @property
    @abstractmethod
    def empty_reason(self) -> str:
        """Why there is no product, as a sentence."""

    @property
    @abstractmethod
    def empty_remedy(self) -> str:
        """What to do if there is no product, as a sentence."""

    def recorded(self, product: str, version: str) -> tuple[Manifest, Digest]:
        """Return the manifest of a bundle and its digest, also if its other files are known to be damaged.

        Raises:
            BundleInvalid: It cannot be read.
            UnknownBundle, BundleRemoved, StoreUnavailable: As for `manifest`.
        """
        return self.manifest(product, version)

    def defaults(self, product: str) -> list[str]:
        """Return the versions of a product's bundles in the order in which they serve if none was ever chosen.

        It is that of `versions`, but conversions come last: a conversion that was made from the bundle that serves has
        other scores and thresholds, and serves only when a person has chosen it. A damaged bundle keeps its place, so
        that it is reported; to pass over it would be a silent roll-back.

        Raises:
            OSError, StoreUnavailable: As for `versions`.
        """
        versions = self.versions(product)
        if len(versions) < 2:  # most products at the start of a service: nothing to compare
            return versions
        return sorted(versions, key=lambda version: self._is_conversion(product, version))

    def only_versions(self) -> Mapping[str, str]:
        """Return the version of the bundle of each product that has exactly one, as far as one query tells it.

        Raises:
            StoreUnavailable: As for `versions`.
        """
        return {}

    def default_digest(self, product: str) -> Digest | None:
        """Return the digest of the first of `defaults` whose manifest can be read; None if there is none.

        Raises:
            OSError, StoreUnavailable: As for `versions`.
        """
        for version in self.defaults(product):
            with suppress(BundleInvalid, UnknownBundle, BundleRemoved):
                return self.recorded(product, version)[1]
        return None

    def _unknown(self, product: str, version: str, known: list[str]) -> PlumblineError:
        """Return the error for a bundle that does not exist."""
        return UnknownBundle(self.root / product, version, known)

    def _is_conversion(self, product: str, version: str) -> bool:
        try:
            return self.recorded(product, version)[0].precision != "fp32"
        except (BundleInvalid, UnknownBundle, BundleRemoved):
            return False

    def contains(self, product: str, version: str) -> bool:
        """Return whether there is such a bundle.

        Raises:
            OSError, StoreUnavailable: As for `versions`.
        """
        return version in self.versions(product)

    def require(self, product: str, version: str) -> Path:
        """Return the folder of a bundle.

        Raises:
            UnknownBundle, BundleRemoved: There is no such bundle.
            OSError, StoreUnavailable: As for `versions`.
        """
        versions = self.versions(product)
        if version not in versions:
            raise self._unknown(product, version, versions)
        return self.root / product / version

    def removed(self) -> set[BundleKey]:
        """Return the bundles that were removed, as far as it is known.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        return set()

    def set_in_force(self, in_force: Callable[[], Mapping[BundleKey, bool]]) -> None:  # noqa: B027 - optional
        """Set what returns the bundles that are in force in this process, and whether each is in memory."""

    def close(self) -> None:  # noqa: B027 - optional
        """Stop fetching bundles, and close connections."""
