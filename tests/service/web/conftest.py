"""Services with a product for tests of the engineer's pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.running_service import RunningService, run_service
from tests.service.web.products import RECIPE, inspect_parts, write_product


@contextmanager
def _filled(folder: Path) -> Iterator[RunningService]:
    write_product(folder / "models")
    with run_service(folder / "models", folder / "data") as running:
        inspect_parts(running)
        yield running


@pytest.fixture(scope="module")
def shared_product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with 21 inspections that the tests of a module share."""
    with _filled(tmp_path_factory.mktemp("product")) as running:
        yield running


@pytest.fixture
def product(shared_product: RunningService) -> RunningService:
    """The shared service with the values of its first recipe in force."""
    if shared_product.client.get(RECIPE).json()["revision"] > 1:
        assert shared_product.client.post(f"{RECIPE}/revisions/1:revert", json={}).status_code == 200
    return shared_product


@pytest.fixture
def own_product(tmp_path: Path) -> Iterator[RunningService]:
    """The same for a test that adds or removes inspections."""
    with _filled(tmp_path) as running:
        yield running
