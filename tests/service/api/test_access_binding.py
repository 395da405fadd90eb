"""Who needs credentials: hosts, proxies, metrics, and clients that share capacity."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from tests.access import bearer, make_key, problem_of
from tests.running_service import GOOD, INSPECT, RunningService, Serve

ME = "/v1/access/me"
HELLO = '{"type": "hello"}'


def test_request_through_a_proxy_is_not_local(serve: Serve) -> None:
    forwarded = {"x-forwarded-for": "198.51.100.7"}
    with serve() as service:
        assert problem_of(service.client.get("/v1/products", headers=forwarded)) == (401, "not-authenticated")
        assert service.client.get("/v1/products").status_code == 200
        assert service.client.get("/health/ready", headers=forwarded).status_code == 200


@pytest.mark.slow
def test_insecure_service_is_visible(serve: Serve) -> None:
    with capture_logs() as log, serve(insecure=True, host="0.0.0.0") as service:  # noqa: S104 - not bound by the test
        assert service.client.get("/v1/products", headers={"x-forwarded-for": "198.51.100.7"}).status_code == 200
        assert service.client.get("/health/ready").json()["access"] == "insecure"
        service.settings.data.mkdir(exist_ok=True)
        assert service.app.state.metrics.registry.get_sample_value("inspection_insecure") == 1
        make_key(service.store.engine, "inspect")
        service.app.state.access._require("test")
        assert service.app.state.metrics.registry.get_sample_value("inspection_insecure") == 0
    assert any("access control is off" in entry["event"] and entry["log_level"] == "warning" for entry in log)


@pytest.mark.slow
@pytest.mark.parametrize(("host", "is_open"), [("127.0.0.1", True), ("0.0.0.0", False)])  # noqa: S104
def test_metrics_need_a_key_unless_the_service_listens_on_loopback(serve: Serve, host: str, is_open: bool) -> None:
    with serve(host=host, insecure=True) as service:
        key = make_key(service.store.engine, "inspect")
        service.app.state.access._require("test")
        assert service.client.get("/metrics").status_code == (200 if is_open else 401)
        assert service.client.get("/metrics", headers=bearer(key)).status_code == 200
        proxied = {"x-forwarded-for": "198.51.100.7"}
        assert service.client.get("/metrics", headers=proxied).status_code == 401, "through a proxy on this machine"


def test_clients_share_capacity_by_key_instead_of_address(secured: RunningService, anonymous: httpx.Client) -> None:
    seen: list[str] = []
    real = secured.services.inspections.accept

    def accept(client: str) -> Any:
        seen.append(client)
        return real(client)

    key = make_key(secured.store.engine, "inspect")
    secured.services.inspections.accept = accept  # type: ignore[method-assign,assignment]
    try:
        anonymous.post(INSPECT, headers=bearer(key) | {"content-type": "image/png"}, content=GOOD)
    finally:
        del secured.services.inspections.accept
    assert seen == [f"key {key.record.id}"]
