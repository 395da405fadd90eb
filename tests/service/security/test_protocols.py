"""Attacks with the order of requests in a connection, upgrades, WebSocket frames, and headers of proxies."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import re
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import structlog
from websockets.sync.client import connect

from service.api.http import body_limit
from service.api.http.http_protocol import MAX_PIPELINED
from service.api.http.stream_protocol import MAX_FRAGMENTS
from service.monitoring.logs import configure_logging
from service.settings import Settings
from tests.access import PASSWORD
from tests.running_service import GOOD, INSPECT, Serve
from tests.service.security.conftest import PNG, Target
from tests.service.security.test_requests import STREAM, UPGRADE, get

JSON = {"content-type": "application/json"}
LOGIN = "/v1/access/login"


def authorization(target: Target, key: str = "inspect") -> bytes:
    return f"Authorization: {target.keys[key]['authorization']}\r\n".encode()


def test_requests_of_one_connection_are_checked_separately(target: Target) -> None:
    first, close = get("/v1/products", authorization(target)), b"Connection: close\r\n"
    assert target.statuses(first + get("/v1/products") + first + get("/v1/audit", authorization(target) + close)) == [
        200, 401, 200, 403
    ]  # fmt: skip


def test_body_that_looks_like_a_request_is_a_body(target: Target) -> None:
    inner = get("/v1/products", authorization(target))
    headers = b"Content-Length: %d\r\nConnection: close\r\n" % len(inner)
    assert target.statuses(get("/health/live", headers) + inner) == [200]


def test_handshake_after_an_unfinished_request_is_refused(target: Target) -> None:
    """Otherwise a response could be written without waiting for the client to read."""
    received = target.raw(
        get("/v1/inspections:export", authorization(target)) + get(STREAM, UPGRADE + authorization(target))
    )
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200"]
    assert b"Switching Protocols" not in received


@pytest.mark.parametrize(
    ("method", "version", "headers"),
    [
        ("POST", "HTTP/1.1", b""),
        ("GET", "HTTP/1.1", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"),
        ("GET", "HTTP/1.1", b"Content-Length: 5\r\n"),
        ("GET", "HTTP/1.1", b"Transfer-Encoding: chunked\r\n"),
        ("GET", "HTTP/1.1", b"Sec-WebSocket-Version: 8\r\n"),
    ],
)
def test_unusual_handshake_opens_nothing(target: Target, method: str, version: str, headers: bytes) -> None:
    received = target.raw(get(STREAM, UPGRADE + headers + authorization(target), method, version) + b"hello")
    assert b"101 Switching" not in received


@pytest.mark.parametrize("upgrade", [b"h2c", b"TLS/1.0", b"foo"])
def test_other_upgrade_does_not_hide_a_request(target: Target, upgrade: bytes) -> None:
    headers = b"Connection: upgrade\r\nUpgrade: " + upgrade + b"\r\n"
    headers = headers.replace(b"upgrade\r", b"upgrade, close\r")
    assert target.statuses(get("/health/live", headers) + get("/v1/products", authorization(target))) == [200]


@pytest.mark.parametrize("path", ["/v1/products/wid\xff", "/v1/products?\xe9", STREAM + "\xff"])
def test_url_with_other_bytes_than_ascii_is_refused(target: Target, path: str) -> None:
    request = b"GET " + path.encode("latin-1") + b" HTTP/1.1\r\nHost: localhost\r\n"
    for headers in (b"", UPGRADE):
        assert target.statuses(request + headers + b"\r\n")[0] in {400, 401}


def test_body_is_not_invited_before_the_credentials_were_checked(target: Target) -> None:
    headers = b"Expect: 100-continue\r\nContent-Type: image/png\r\nContent-Length: 1000000\r\n"
    assert target.statuses(get(INSPECT, headers, "POST")) == [401]


@pytest.mark.parametrize("endless", [b"2;" + b"a" * 60_000, b"2\r\n{}\r\n0\r\n" + b"x-a: b\r\n" * 7000])
def test_endless_chunk_extension_and_trailer_end_the_connection(
    target: Target, endless: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_limit, "_RATE_GRACE_S", 0.3)
    headers = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    with target.service.connect() as connection:
        connection.sendall(get(LOGIN, headers, "POST") + endless)
        sent, limit = 0, 64
        try:
            while sent < limit:
                connection.sendall(endless[-50_000:])
                sent += 1
        except OSError:
            pass
        assert sent < limit or connection.recv(100).startswith((b"HTTP/1.1 4", b""))


def test_refused_requests_with_slow_bodies_take_no_place_of_others(serve: Serve) -> None:
    """The rest of a refused body is discarded, so that the client sees the refusal. That must not hold a connection."""
    with serve(max_connections=8) as service, ExitStack() as slow:
        headers = b"X-API-Key: a\r\nX-API-Key: b\r\nContent-Type: image/png\r\nContent-Length: 1000000\r\n"
        service.app.state.access._require("test")
        for _ in range(8):
            connection = slow.enter_context(service.connect())
            connection.sendall(get(INSPECT, headers, "POST"))
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
            connection.sendall(b"x")
        for _ in range(3):
            assert httpx.get(f"http://127.0.0.1:{service.port}/health/live").status_code == 200


def test_compressed_body_is_not_decompressed(target: Target) -> None:
    bomb = gzip.compress(b" " * 10_000_000 + b"{}")
    headers = target.keys["engineer"] | JSON | {"content-encoding": "gzip"}
    response = target.client.put("/v1/products/widget/recipe", content=bomb, headers=headers)
    assert response.status_code in {400, 415, 422}
    image = target.client.post(
        INSPECT, content=gzip.compress(GOOD), headers=target.keys["inspect"] | PNG | {"content-encoding": "gzip"}
    )
    assert image.status_code in {415, 422}


def test_head_is_checked_like_get(target: Target) -> None:
    paths = [path for path, item in target.client.get("/openapi.json").json()["paths"].items() if "get" in item]
    assert len(paths) > 20
    for path in paths:
        url = re.sub(r"\{\w+\}", "widget", path)
        answers = [target.client.request(method, url).status_code for method in ("HEAD", "GET")]
        assert answers[0] == answers[1], url


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b'{"name": "kim", "password": "%s"}' % PASSWORD.encode()),
        ("application/x-www-form-urlencoded", f"name=kim&password={PASSWORD}".encode()),
        ("multipart/form-data; boundary=B", b'--B\r\nContent-Disposition: form-data; name="name"\r\n\r\nkim\r\n--B--'),
        ("", b'{"name": "kim", "password": "%s"}' % PASSWORD.encode()),
    ],
)
def test_form_of_a_page_cannot_log_in(target: Target, content_type: str, body: bytes) -> None:
    """A browser sends these media types to other sites without asking (CORS)."""
    response = target.client.post(LOGIN, content=body, headers={"content-type": content_type})
    assert response.status_code in {415, 422}
    assert "set-cookie" not in response.headers


def test_cookie_without_prefix_is_not_accepted_over_https(target: Target) -> None:
    """Pages of other ports of the host can set cookies, but none with the prefix `__Host-` over HTTP."""
    body = {"name": "kim", "password": PASSWORD}
    target.client.post(LOGIN, json=body)
    token = target.client.cookies["plumbline"]
    target.client.cookies.clear()
    for name, scheme, status in (
        ("plumbline", "https", 401),
        ("__Host-plumbline", "http", 401),
        ("plumbline", "http", 200),
    ):
        headers = {"cookie": f"{name}={token}", "x-forwarded-proto": scheme}
        assert target.client.get("/v1/access/me", headers=headers).status_code == status


def test_key_is_no_session_and_session_is_no_key(target: Target) -> None:
    """Both are cached by their hash."""
    target.client.post(LOGIN, json={"name": "kim", "password": PASSWORD})
    token = target.client.cookies["plumbline"]
    key = target.keys["inspect"]["authorization"].removeprefix("Bearer ")
    assert target.client.get("/v1/access/me").status_code == 200
    target.client.cookies.clear()
    assert target.client.get("/v1/access/me", headers=target.keys["inspect"]).status_code == 200
    for headers in ({"authorization": f"Bearer {token}"}, {"x-api-key": token}, {"cookie": f"plumbline={key}"}):
        assert target.client.get("/v1/access/me", headers=headers).status_code == 401
        assert target.client.post(INSPECT, content=GOOD, headers=PNG | headers).status_code == 401


def frame(opcode: int, data: bytes = b"", *, final: bool = True) -> bytes:
    """Return a masked frame."""
    return bytes([opcode | (0x80 if final else 0), 0x80 | len(data)]) + bytes(4) + data


def open_stream(target: Target) -> socket.socket:
    connection = target.service.connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(get(STREAM, UPGRADE + authorization(target)))
    assert connection.recv(4096).startswith(b"HTTP/1.1 101 ")
    connection.settimeout(1)
    return connection


def test_message_of_endless_fragments_ends_the_stream(target: Target) -> None:
    with open_stream(target) as connection:
        connection.sendall(frame(2, final=False) + frame(0, final=False) * (MAX_FRAGMENTS + 1))
        assert connection.recv(100)[2:4] == (1008).to_bytes(2)


def test_pings_of_a_client_that_does_not_read_take_no_memory_without_end(target: Target) -> None:
    pings = frame(9, b"a" * 125) * 200_000
    with open_stream(target) as connection, pytest.raises(TimeoutError):
        connection.sendall(pings)


def test_stream_with_an_invalid_text_ends(target: Target) -> None:
    with open_stream(target) as connection:
        connection.sendall(frame(1, b"\xff\xfe"))
        assert connection.recv(100)[2:4] == (1007).to_bytes(2)


def test_second_hello_changes_neither_station_nor_product(target: Target) -> None:
    url = f"ws://127.0.0.1:{target.service.port}{STREAM}"
    with connect(url, additional_headers=target.keys["station"]) as stream:
        answers = []
        for part in ({"station": "A1"}, {"station": "B2"}):
            stream.send(json.dumps({"type": "hello", "part": part}))
            answers.append(str(stream.recv()))
    assert "ready" in answers[0]
    assert "invalid-request" in answers[1]


def test_thousands_of_requests_at_once_do_not_delay_others(target: Target) -> None:
    used = time.process_time()
    statuses = target.statuses(get("/v1/products") * 5000)
    assert time.process_time() - used < 0.5
    assert set(statuses) == {401}
    assert len(statuses) <= MAX_PIPELINED + 1
    few = get("/health/live") * (MAX_PIPELINED - 1) + get("/v1/products", b"Connection: close\r\n")
    assert target.statuses(few) == [200] * (MAX_PIPELINED - 1) + [401]


@pytest.mark.parametrize("one", [frame(9), frame(10), frame(1), frame(8)])
def test_flood_of_tiny_frames_does_not_delay_others(target: Target, one: bytes) -> None:
    with open_stream(target) as connection:
        connection.settimeout(0.5)
        with contextlib.suppress(OSError):
            connection.sendall(one * 300_000)
        for _ in range(5):
            started = time.monotonic()
            assert target.client.get("/health/live").status_code == 200
            assert time.monotonic() - started < 0.5


def test_log_quotes_no_handshake_and_no_garbage(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it contained the key of a query, and could be filled without credentials."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger()
    before, level, configuration = root.handlers, root.level, structlog.get_config()
    try:
        configure_logging(Settings(models=tmp_path / "models", data=tmp_path / "data"))
        for path in (f"{STREAM}?api_key=hunter2-secret", "/ghost?api_key=hunter2-secret"):
            assert target.statuses(get(path, UPGRADE))[0] in {401, 404}
        with pytest.raises(TimeoutError):  # it is open
            target.raw(get(f"{STREAM}?api_key=hunter2-secret", UPGRADE + authorization(target)), 0.3)
        for _ in range(5):
            target.raw(b"\x16\x03\x01 garbage\r\n\r\n")
            target.raw(get("/health/live", b"Connection: upgrade, close\r\nUpgrade: h2c\r\n"))
    finally:
        root.handlers = before
        root.setLevel(level)
        structlog.configure(**configuration)
    assert "hunter2" not in stream.getvalue()
    assert "Invalid HTTP" not in stream.getvalue()
    assert "upgrade" not in stream.getvalue()
