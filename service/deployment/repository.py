"""The model repository on disk: list its products, and load their bundles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from service.bundle.bundle import bundle_folders
from service.bundle.errors import BundleOfOtherProduct
from service.bundle.manifest import PRODUCT_NAME
from service.inspection.inspector import Inspector, InspectorOptions


def load_inspector(path: Path, product: str, options: InspectorOptions) -> Inspector:
    """Load a bundle, and check that it was made for the product in whose folder it is.

    Raises:
        BundleOfOtherProduct: It was made for another product.
        BundleInvalid, ProviderUnavailable: As for `Inspector.load`.
    """
    inspector = Inspector.load(path, options)
    made_for = inspector.bundle.manifest.product
    if made_for != product:
        inspector.close()
        raise BundleOfOtherProduct(path, made_for, product)
    return inspector


def product_folders(models: Path) -> Iterator[str]:
    """Yield the names of the products in a model repository, sorted."""
    if not models.is_dir():
        return
    for folder in sorted(models.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        if PRODUCT_NAME.fullmatch(folder.name) and _may_contain_bundles(folder):
            yield folder.name


def _may_contain_bundles(product_folder: Path) -> bool:
    try:
        return any(bundle_folders(product_folder))
    except OSError:
        return True  # so that loading it reports the folder as broken
