"""Requests for a product that another replica uploaded or activated a moment ago."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.deployment.errors import ProductNotReady
from service.store.store import Store
from tests.problems import assert_problem
from tests.running_service import GOOD, RunningService

PNG = {"content-type": "image/png"}
PATHS = ["/v1/products/nut/inspections", "/v1/products/nut/inspections:batch", "/v1/products/nut/inspections:try"]


@pytest.fixture
def activated_elsewhere(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the database state that another replica activated "nut". Returns the products that are looked up."""
    looked_up: list[str] = []

    def synchronise(product: str) -> None:
        assert asyncio._get_running_loop() is None, "it blocks, so it must not run on the event loop"
        looked_up.append(product)
        if product == "nut":
            raise ProductNotReady(product, "another process activated a bundle of it.")

    monkeypatch.setattr(Store, "is_shared", True)
    monkeypatch.setattr(service.registry, "synchronise", synchronise)
    return looked_up


def post(service: RunningService, path: str) -> Any:
    return service.client.post(path, content=GOOD, headers=PNG)


@pytest.mark.parametrize("path", PATHS)
def test_client_is_told_to_send_the_request_again(
    service: RunningService, activated_elsewhere: list[str], path: str
) -> None:
    response = post(service, path)
    assert_problem(response, 503, "product-not-ready")
    assert int(response.headers["retry-after"]) >= 1
    assert activated_elsewhere == ["nut"]


def test_stream_is_told_to_connect_again(service: RunningService, activated_elsewhere: list[str]) -> None:
    assert activated_elsewhere == []
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{service.port}/v1/products/nut/stream"):
        pass
    assert refused.value.response.status_code == 503
    assert "retry-after" in refused.value.response.headers


def test_product_that_is_unknown_everywhere_is_unknown(service: RunningService, activated_elsewhere: list[str]) -> None:
    assert_problem(post(service, "/v1/products/bolt/inspections"), 404, "unknown-product")
    assert activated_elsewhere == ["bolt"]
