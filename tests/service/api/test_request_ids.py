"""The header `X-Request-ID`: every response has it, and problems and stream messages name the same id."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.running_service import GOOD, INSPECT, HttpService, RunningService

HANDSHAKE = {
    "connection": "upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/health/live", {}),
        ("HEAD", "/health/live", {}),
        pytest.param("GET", "/metrics", {}, marks=pytest.mark.per_replica),
        ("GET", "/docs", {}),
        ("GET", "/unknown", {}),
        ("DELETE", "/health/live", {}),
        ("GET", "/v1/inspections?unknown=1", {}),
        ("GET", "/v1/inspections/0", {}),
        ("POST", INSPECT, {"content": b"", "headers": {"content-type": "image/png"}}),
        ("POST", INSPECT, {"content": b"x" * 200_000, "headers": {"content-type": "image/png"}}),
        ("POST", INSPECT, {"content": GOOD, "headers": {"content-type": "image/png"}}),
        ("GET", "/v2", {}),
        ("GET", "/health/live", {"headers": {"host": "evil.example"}}),
        ("GET", "/health/live", {"headers": {"origin": "http://evil.example"}}),
        ("GET", "/v1/products/widget/stream", {"headers": HANDSHAKE | {"origin": "http://evil.example"}}),
        ("GET", "/v1/products/unknown/stream", {"headers": HANDSHAKE}),
        ("GET", "/unknown", {"headers": HANDSHAKE}),
        pytest.param(
            "GET",
            "/v1/products/widget/stream",
            {"headers": HANDSHAKE | {"sec-websocket-version": "1"}},
            marks=pytest.mark.own_server,
        ),
    ],
)
def test_every_response_has_a_request_id(service: HttpService, method: str, path: str, options: dict[str, Any]) -> None:
    response = service.client.request(method, path, **options)
    request_id = response.headers["x-request-id"]
    assert request_id
    if response.headers.get("content-type") == "application/problem+json":
        assert response.json()["instance"] == f"urn:plumbline:request:{request_id}"


def test_a_malformed_request_has_an_id(service: RunningService) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        connection.settimeout(5)
        response = b""
        while piece := _read(connection):
            response += piece
    head, _, body = response.partition(b"\r\n\r\n")
    (line,) = [line for line in head.splitlines() if line.lower().startswith(b"x-request-id:")]
    assert json.loads(body)["instance"] == f"urn:plumbline:request:{line.partition(b':')[2].strip().decode()}"


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionError:
        return b""


def test_the_id_of_the_client_is_used(service: HttpService) -> None:
    response = service.inspect(headers={"x-request-id": "mes-42"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "mes-42"
    response = service.inspect(b"no image", headers={"x-request-id": "mes-43"})
    assert response.headers["x-request-id"] == "mes-43"
    assert response.json()["instance"] == "urn:plumbline:request:mes-43"


def test_messages_of_a_stream_name_the_id_of_its_handshake(service: RunningService) -> None:
    with connect(f"ws://127.0.0.1:{service.port}/v1/products/widget/stream") as stream:
        assert stream.response is not None
        name = stream.response.headers["x-request-id"]
        stream.send('{"type": "hello"}')
        assert json.loads(stream.recv())["stream"] == name
        stream.send(GOOD)
        assert json.loads(stream.recv())["inspection"]["request_id"] == f"{name}/0"
        stream.send(b"no image")
        assert json.loads(stream.recv())["problem"]["instance"] == f"urn:plumbline:request:{name}/1"
        stream.send("no message")
        assert json.loads(stream.recv())["problem"]["instance"] == f"urn:plumbline:request:{name}"


def test_a_refused_handshake_has_one_id(service: RunningService) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{service.port}/v1/products/unknown/stream")
    response = refused.value.response
    name = response.headers["x-request-id"]
    assert json.loads(response.body or b"")["instance"] == f"urn:plumbline:request:{name}"
