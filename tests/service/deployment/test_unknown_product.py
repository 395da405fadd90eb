"""What the error of an unknown product offers, also with thousands of products and for a restricted key."""

from __future__ import annotations

from pathlib import Path

from service.deployment.errors import UnknownProduct

FEW = ("bolt", "nut", "washer")
MANY = tuple(f"washer-{number}" for number in range(1000))


def test_similar_names_are_offered(tmp_path: Path) -> None:
    error = UnknownProduct("wascher", FEW, tmp_path)
    assert error.extensions["similar"] == ["washer"]
    assert "Did you mean 'washer'?" in error.detail


def test_thousands_of_names_are_not_compared(tmp_path: Path) -> None:
    error = UnknownProduct("washer-", MANY, tmp_path)
    assert error.extensions["similar"] == []
    assert len(error.extensions["known"]) == len(MANY)
    assert "Did you mean" not in error.detail


def test_names_of_a_restricted_key_are_compared(tmp_path: Path) -> None:
    error = UnknownProduct("washer-x", MANY, tmp_path).visible_to({"washer-7", "nut"})
    assert error.extensions["known"] == ["washer-7"]
    assert error.extensions["similar"] == ["washer-7"]
