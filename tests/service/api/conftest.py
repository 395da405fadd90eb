"""A service that needs credentials, and one with records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.access import bearer
from tests.running_service import RunningService, run_service
from tests.service.store.test_query_inspections import fill


@pytest.fixture(scope="module")
def secured(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with an administrator's key."""
    with run_service(tiny_models, tmp_path_factory.mktemp("data"), login_attempts=1000) as running:
        created = running.client.post("/v1/access/keys", json={"name": "root", "scopes": ["admin", "inspect"]})
        assert created.status_code == 201
        running.client.headers.update(bearer(created.json()["key"]))
        yield running


@pytest.fixture
def anonymous(secured: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=secured.client.base_url, timeout=10) as client:
        yield client


@pytest.fixture(scope="module")
def records(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with the records of the store's tests."""
    with run_service(tiny_models, tmp_path_factory.mktemp("data")) as running:
        fill(running.store.engine)
        yield running
