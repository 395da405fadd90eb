"""Attacks with requests that are spelled unusually, malformed, or expensive to parse."""

from __future__ import annotations

import time

import pytest

from tests.running_service import INSPECT
from tests.service.security.conftest import Target

STREAM = "/v1/products/widget/stream"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
SMUGGLED = b"GET /v1/products HTTP/1.1\r\nHost: localhost\r\n\r\n"


def get(path: str, headers: bytes = b"", method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    return f"{method} {path} {version}\r\nHost: localhost\r\n".encode() + headers + b"\r\n"


@pytest.mark.parametrize(
    "path",
    [
        "//v1/products", "/v1//products", "/v1/products/", "/V1/products", "/v1/products;x=1", "/v1/products%00",
        "/v1/./products", "/v1/x/../products", "/v1%2fproducts", "/%761/products", "/v1/products.", "/v1/products/.",
        "/v1/products%20", "/docs/../v1/products", "/health/live/../../v1/products", "/openapi.json/../v1/products",
        "/v1/access/login/../keys", "/metrics/", "/metrics;", "/METRICS", "/v2/", "/v2/models/gadget/../widget",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_passes_the_check(target: Target, path: str) -> None:
    assert set(target.statuses(get(path, b"Connection: close\r\n"))) <= {401, 404}


@pytest.mark.parametrize(
    "path", ["..%2f..%2fapp.py", "../../../app.py", "%2e%2e/%2e%2e/pages.py", "/etc/passwd", "%00", "a" * 5000]
)
def test_static_files_of_the_documentation_only(target: Target, path: str) -> None:
    assert target.statuses(get(f"/docs/assets/{path}", b"Connection: close\r\n")) == [404]


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "OPTIONS", "PROPFIND", "PATCH", "DELETE", "get", "GETT"])
def test_other_methods_are_refused(target: Target, method: str) -> None:
    assert set(target.statuses(get("/v1/products", b"Connection: close\r\n", method))) <= {400, 405}


@pytest.mark.parametrize(
    "header", ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method", "X-Original-URL", "X-Rewrite-URL"]
)
def test_headers_override_neither_method_nor_path(target: Target, header: str) -> None:
    value = "/v1/products" if "URL" in header else "DELETE"
    assert target.client.get("/health/live", headers={header: value}).json() == {"status": "alive"}


@pytest.mark.parametrize(
    ("line", "host", "status"),
    [
        ("GET http://evil.example/v1/products HTTP/1.1", "localhost", 401),
        ("GET http://localhost/v1/products HTTP/1.1", "evil.example", 421),
        ("GET * HTTP/1.1", "localhost", 404),
        ("GET v1/products HTTP/1.1", "localhost", 400),
        ("GET file:///etc/passwd HTTP/1.1", "localhost", 400),
        ("CONNECT evil.example:80 HTTP/1.1", "localhost", 400),
        ("GET /v1/products HTTP/0.9", "localhost", 401),
        ("PRI * HTTP/2.0", "localhost", 400),
    ],
)
def test_request_target_does_not_choose_host_or_file(target: Target, line: str, host: str, status: int) -> None:
    assert target.statuses(f"{line}\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()) == [status]


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"Content-Length: 5, 5\r\n\r\nhello",
        b"Content-Length: +5\r\n\r\nhello",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 0x5\r\n\r\nhello",
        b"Content-Length: 99999999999999999999999\r\n\r\nhello",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\x0bchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        b"X-A: b\r\n Content-Length: 5\r\n\r\n",
        b"X-A: b\nContent-Length: 5\r\n\r\nhello",
        b"X-A: b\n\n",
        b"X-A: b\rContent-Length: 5\r\n\r\nhello",
        b"X-A: b\x00\r\nContent-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
    ],
)
def test_smuggled_request_is_refused_and_ends_the_connection(target: Target, rest: bytes) -> None:
    key = f"Authorization: {target.keys['inspect']['authorization']}\r\n".encode()
    assert target.statuses(get(INSPECT, key, "POST")[:-2] + rest + SMUGGLED) == [400]


@pytest.mark.parametrize(
    "headers",
    [
        b"X-A: " + b"a" * 9000 + b"\r\n",
        b"X-A: " + b"a" * 60_000 + b"\r\n",
        b"a: b\r\n" * 300,
        b"Sec-WebSocket-Protocol: " + b"a," * 30_000 + b"\r\n",
    ],
)
def test_handshake_with_long_headers_is_refused_and_ends_the_connection(target: Target, headers: bytes) -> None:
    received = target.raw(get(STREAM, UPGRADE + headers))
    assert received.startswith(b"HTTP/1.1 431 ")
    assert b"/problems#malformed-request" in received
    assert b"nosniff" in received


@pytest.mark.parametrize("path", [f"//{STREAM}", STREAM.upper(), f"{STREAM}/", "/v1/products", "/v1/audit"])
def test_handshake_with_another_path_opens_nothing(target: Target, path: str) -> None:
    assert target.statuses(get(path, UPGRADE))[0] in {401, 403, 404}


@pytest.mark.parametrize(
    "headers", [b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"]
)
def test_upgrade_to_http2_is_ignored(target: Target, headers: bytes) -> None:
    assert target.statuses(get("/v1/products", headers + b"Connection: close\r\n")) == [401]


@pytest.mark.parametrize(
    "header",
    [
        b"Cookie: " + b"a=b; " * 12_000 + b"c=d",
        b"Cookie: " + b"plumbline=a; " * 4600 + b"c=d",
        b'Cookie: a="' + b"\\" * 60_000,
        b"Authorization: bearer" + b" " * 60_000 + b"x",
        b"X-Forwarded-For: " + b"127.0.0.1," * 6000,
        b"Accept: " + b",;" * 30_000,
        b"Origin: http://" + b"a@" * 30_000,
        b"\r\n".join([b"Authorization: Bearer x"] * 2000),
        b"\r\n".join([b"a: b"] * 9000),
    ],
)
def test_long_header_is_cheap(target: Target, header: bytes) -> None:
    request = get("/v1/access/me", header + b"\r\nConnection: close\r\n")
    used = time.process_time()  # of the service, which is in this process, and of the test
    for _ in range(8):
        assert set(target.statuses(request)) <= {400, 401}
    assert time.process_time() - used < 0.8, "it keeps all others waiting"
