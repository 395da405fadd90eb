"""Products that another process adds to a model repository that several processes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.deployment.errors import UnknownProduct
from service.deployment.known_products import KnownProducts
from service.deployment.sources.folder import FolderSource
from tests.bundles import write_tiny_bundle


@pytest.fixture
def products(tmp_path: Path) -> KnownProducts:
    """The products of a repository to which "nut" was added after it had been read."""
    write_tiny_bundle(tmp_path / "models", "widget")
    found = KnownProducts(FolderSource(tmp_path / "models"))
    write_tiny_bundle(tmp_path / "models", "nut")
    return found


def test_product_of_another_process_is_found_when_it_is_looked_up(products: KnownProducts) -> None:
    products.is_followed = True
    assert products.names == {"widget"}
    products.look_up("nut")
    products.require("nut")
    assert products.names == {"nut", "widget"}


def test_process_that_has_its_repository_for_itself_looks_up_nothing(products: KnownProducts) -> None:
    assert not products.contains("nut")
    with pytest.raises(UnknownProduct):
        products.look_up("nut")
    products.discover()
    assert products.contains("nut")


@pytest.mark.parametrize("name", ["bolt", "../models/nut", "nut/..", "", "."])
def test_other_name_is_no_product(products: KnownProducts, name: str) -> None:
    products.is_followed = True
    assert not products.contains(name)
    with pytest.raises(UnknownProduct):
        products.look_up(name)


def test_repository_that_cannot_be_read_has_no_further_products(products: KnownProducts, tmp_path: Path) -> None:
    products.is_followed = True
    (tmp_path / "models").rename(tmp_path / "aside")
    (tmp_path / "models").write_text("a file where the repository should be")
    assert not products.contains("nut")
    assert products.contains("widget")
