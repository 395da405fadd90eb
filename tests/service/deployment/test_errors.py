"""Errors that name what exists."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from service.deployment import errors
from service.deployment.errors import UnknownProduct


def test_similar_names_are_not_looked_for_among_thousands(tmp_path: Path) -> None:
    assert UnknownProduct("bold", ["bolt", "nut"], tmp_path).extensions["similar"] == ["bolt"]
    many = ["bolt", *(f"part-{number}" for number in range(10_000))]
    with patch.object(errors, "get_close_matches", return_value=[]) as compare:
        error = UnknownProduct("bold", many, tmp_path)
        assert error.extensions["similar"] == []
        compare.assert_not_called()  # it would hold up the event loop
    seen = error.visible_to({"bolt"})
    assert isinstance(seen, UnknownProduct)
    assert seen.extensions["similar"] == ["bolt"], "few names are compared"


def test_bundle_store_is_named_instead_of_its_cache(tmp_path: Path) -> None:
    (tmp_path / "nut").mkdir()
    assert "restart the service" in UnknownProduct("nut", ["bolt"], tmp_path).detail
    assert UnknownProduct("nut", ["bolt"], None).detail == (
        "There is no product 'nut' in the bundle store. Known products: bolt."
    )
