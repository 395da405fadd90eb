"""Bundles in the model repository, a folder on the local disk."""

from __future__ import annotations

from collections.abc import Callable, Set
from pathlib import Path

from service.bundle.bundle import Bundle, bundle_folders, read_manifest
from service.bundle.manifest import Digest, Manifest
from service.deployment.repository import empty_reason, product_folders
from service.deployment.sources.source import BundleSource, ResultT


class FolderSource(BundleSource):
    """The bundles of a model repository. What is in the folder is what there is.

    Args:
        root: The model repository.
    """

    def products(self, besides: Set[str] = frozenset()) -> set[str]:
        """Return the names of the products."""
        return set(product_folders(self.root, besides))

    @property
    def empty_reason(self) -> str:
        """Why there is no product, as a sentence."""
        return f"The model repository {self.root} {empty_reason(self.root)}."

    @property
    def empty_remedy(self) -> str:
        """What to do if there is no product, as a sentence."""
        return "Set PLUMBLINE_MODELS to the folder that holds the products, or upload a bundle."

    def versions(self, product: str) -> list[str]:
        """Return the versions of a product's bundles, newest first."""
        try:
            return [folder.name for folder in bundle_folders(self.root / product)]
        except FileNotFoundError:
            return []

    def manifest(self, product: str, version: str) -> tuple[Manifest, Digest]:
        """Read the manifest of a bundle, and compute its digest."""
        return read_manifest(self.root / product / version)

    def is_local(self, bundle: Bundle) -> bool:
        """Return True."""
        del bundle
        return True

    def fetch(self, product: str, version: str) -> None:
        """Do nothing."""

    def use(self, product: str, version: str, work: Callable[[Path], ResultT], *, with_graph: bool = True) -> ResultT:
        """Run a function with the folder of a bundle."""
        del with_graph
        return work(self.root / product / version)

    def store(self, bundle: Bundle) -> Callable[[], bool]:
        """Do nothing: the bundle is visible when its folder is in place."""
        del bundle
        return lambda: True
