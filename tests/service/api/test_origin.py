"""Requests of foreign web pages and for foreign hosts."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.settings import Settings
from tests.running_service import INSPECT, RunningService, run_service

RECIPE = "/v1/products/widget/recipe"


@pytest.fixture(scope="module")
def service(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with run_service(
        tiny_models,
        tmp_path_factory.mktemp("data"),
        allowed_hosts="line-pc.example, plumbline",
        allowed_origins="https://mes.example:8443",
    ) as running:
        yield running


def raw(service: RunningService, head: str) -> tuple[int, bytes]:
    """Send a request exactly as given and return status and body."""
    with service.connect() as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        connection.settimeout(10)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    status = int(received.split(b" ", 2)[1])
    return status, received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8000",
        "10.1.2.3",  # an address cannot be rebound: the service may be behind a port forwarding
        "[::1]:8000",
        "localhost",
        "LOCALHOST:9000",
        "localhost.",
        "line-pc.example",
        "Plumbline:8000",
        socket.gethostname(),
    ],
)
def test_own_host_is_accepted(service: RunningService, host: str) -> None:
    assert raw(service, f"GET /health/live HTTP/1.1\nHost: {host}\nConnection: close")[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "line-pc.example.evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example#127.0.0.1",
        "127.0.0.1@evil.example",
        "evil.example/127.0.0.1",
        "127.0.0.1:port",
        "",
        " ",
        "<script>",
    ],
)
@pytest.mark.parametrize("request_line", ["GET /v1/products", "PUT " + RECIPE, "GET /docs", "GET /metrics"])
def test_foreign_host_is_refused_and_not_reflected(service: RunningService, host: str, request_line: str) -> None:
    status, body = raw(service, f"{request_line} HTTP/1.1\nHost: {host}\nConnection: close\nContent-Length: 0")
    problem = json.loads(body)
    assert (status, problem["type"]) == (421, "/problems#host-not-allowed")
    assert "PLUMBLINE_ALLOWED_HOSTS" in problem["detail"]
    if host.strip():
        assert host.encode() not in body


@pytest.mark.parametrize("hosts", ["Host: 127.0.0.1\nHost: evil.example", "X-Nothing: 1"])
def test_request_needs_exactly_one_host(service: RunningService, hosts: str) -> None:
    status, body = raw(service, f"GET /v1/products HTTP/1.1\n{hosts}\nConnection: close")
    assert (status, json.loads(body)["type"]) == (400, "/problems#malformed-request")


def test_probe_of_an_old_load_balancer_has_no_host(service: RunningService) -> None:
    assert raw(service, "GET /health/live HTTP/1.0")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},  # another port is another origin
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "https://mes.example"},  # allowed with another port
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", INSPECT), ("PUT", RECIPE), ("POST", f"{RECIPE}:revert"), ("POST", "/v1/products/widget/bundles")],
)
def test_foreign_page_changes_nothing(service: RunningService, headers: dict[str, str], method: str, path: str) -> None:
    before = service.client.get(RECIPE).json()
    form = {"content-type": "application/x-www-form-urlencoded"}  # what a page can send without a preflight request
    response = service.client.request(method, path, content=b"author=x", headers=form | headers)
    assert (response.status_code, response.json()["type"]) == (403, "/problems#foreign-origin")
    assert "evil" not in response.text
    assert service.client.get(RECIPE).json() == before


def test_own_page_and_allowed_page_may_inspect(service: RunningService) -> None:
    for origin in (f"http://127.0.0.1:{service.port}", "https://mes.example:8443", "HTTPS://MES.example:8443"):
        headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site" if "mes" in origin.lower() else "same-origin"}
        assert service.inspect(headers=headers).status_code == 201


def test_own_page_behind_a_proxy_that_ends_tls(service: RunningService) -> None:
    headers = {"Host": "line-pc.example", "Origin": "https://line-pc.example"}
    assert service.inspect(headers=headers).status_code == 201


def test_allowed_page_may_read_responses_and_others_may_not(service: RunningService) -> None:
    allowed = service.client.get("/v1/products", headers={"Origin": "https://mes.example:8443"})
    assert allowed.headers["access-control-allow-origin"] == "https://mes.example:8443"
    foreign = service.client.get("/v1/products", headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 200  # reading is harmless: the browser keeps the response from the page
    assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_foreign_page_opens_no_stream(service: RunningService, headers: dict[str, str], status: int) -> None:
    url = f"ws://127.0.0.1:{service.port}/v1/products/widget/stream"
    with pytest.raises(InvalidStatus) as caught, connect(url, additional_headers=headers):
        pass
    assert caught.value.response.status_code == status
    assert json.loads(caught.value.response.body)["type"] == "/problems#foreign-origin"


def test_stream_with_a_foreign_host_is_refused(service: RunningService) -> None:
    head = (
        "GET /v1/products/widget/stream HTTP/1.1\nHost: evil.example\nUpgrade: websocket\nConnection: Upgrade\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13"
    )
    status, body = raw(service, head)
    assert (status, json.loads(body)["type"]) == (421, "/problems#host-not-allowed")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("allowed_hosts", "http://line-pc", "without scheme and port"),
        ("allowed_hosts", "line-pc:8000", "without scheme and port"),
        ("allowed_hosts", "*", "is not a host name"),
        ("allowed_origins", "mes.example", "scheme, host and port"),
        ("allowed_origins", "https://mes.example/path", "scheme, host and port"),
        ("allowed_origins", "*", "scheme, host and port"),
    ],
)
def test_wrong_allow_lists_are_refused(setting: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**{setting: value})  # type: ignore[arg-type]
