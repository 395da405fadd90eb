"""Webhooks against a real HTTP server."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.integrations.config import WebhookConfig
from service.integrations.delivery import Attempt, Event
from service.integrations.events import test_event as make_test_event
from service.integrations.webhook import MAX_RETRY_AFTER_S, WebhookSink, classify
from tests.service.integrations.receivers import Receiver, Reply, receive

TLS = Path(__file__).parents[2] / "client" / "tls"
DOCUMENT = Path(__file__).parents[3] / "docs" / "how-to" / "integrations.md"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENT = Event("0195-e", "inspection.created", "widget", None, '{"größe": 1}'.encode())


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as running:
        yield running


def config(url: str, **changes: Any) -> WebhookConfig:
    return WebhookConfig.model_validate({"name": "mes", "kind": "webhook", "url": url, "timeout_s": 5} | changes)


def send(sink: WebhookSink, *events: Event) -> list[Attempt]:
    async def run() -> list[Attempt]:
        await sink.open(lambda: None)
        try:
            return [await sink.deliver(event) for event in events]
        finally:
            await sink.close()

    return asyncio.run(run())


def attempt(url: str, **changes: Any) -> Attempt:
    (found,) = send(WebhookSink(config(url, **changes)), EVENT)
    return found


def test_request_has_the_event_and_its_id(receiver: Receiver) -> None:
    assert attempt(receiver.url).result == "delivered"
    (request,) = receiver.requests

    assert request.path == "/hook"
    assert request.body == EVENT.body
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-plumbline-event-id"] == EVENT.id
    assert request.headers["x-plumbline-event"] == "inspection.created"
    assert request.headers["user-agent"].startswith("plumbline/")
    assert abs(int(request.headers["x-plumbline-timestamp"]) - time.time()) < 10
    assert "x-plumbline-signature" not in request.headers
    assert "authorization" not in request.headers


def test_request_continues_the_trace_of_the_inspection(receiver: Receiver) -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    send(WebhookSink(config(receiver.url)), EVENT, replace(EVENT, traceparent=traceparent))
    without, traced = receiver.requests
    assert "traceparent" not in without.headers
    assert traced.headers["traceparent"] == traceparent


def test_documented_code_verifies_the_signature(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S", "key-ü")
    monkeypatch.setenv("T", "token")
    secrets = {"secret": {"env": "S"}, "bearer_token": {"env": "T"}}
    assert attempt(receiver.url, **secrets).result == "delivered"
    (request,) = receiver.requests
    timestamp, signature = (request.headers[f"x-plumbline-{name}"] for name in ("timestamp", "signature"))

    expected = hmac.new("key-ü".encode(), f"{timestamp}.".encode() + request.body, hashlib.sha256).hexdigest()
    assert signature == f"v1={expected}"
    assert request.headers["authorization"] == "Bearer token"

    (code,) = re.findall(r"```python\n(.*?def is_genuine.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(code, namespace)  # noqa: S102 - the code of our own documentation
    is_genuine = namespace["is_genuine"]
    headers = {"X-Plumbline-Timestamp": timestamp, "X-Plumbline-Signature": signature}
    assert is_genuine(headers, request.body, "key-ü")
    assert not is_genuine(headers, request.body + b" ", "key-ü")
    assert not is_genuine(headers, request.body, "key")
    assert not is_genuine({}, request.body, "key-ü")
    old = str(int(timestamp) - 3600)
    repeated = "v1=" + hmac.new("key-ü".encode(), f"{old}.".encode() + request.body, hashlib.sha256).hexdigest()
    assert not is_genuine({"X-Plumbline-Timestamp": old, "X-Plumbline-Signature": repeated}, request.body, "key-ü")


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, "delivered"), (201, "delivered"), (204, "delivered"), (299, "delivered"),
        (301, "rejected"), (302, "rejected"), (307, "rejected"),
        (400, "refused"), (413, "refused"), (415, "refused"), (422, "refused"),
        (401, "rejected"), (403, "rejected"), (404, "rejected"), (410, "rejected"), (451, "rejected"),
        (408, "unavailable"), (425, "unavailable"), (429, "unavailable"),
        (500, "rejected"), (501, "rejected"), (599, "rejected"),
        (502, "unavailable"), (503, "unavailable"), (504, "unavailable"),
    ],
)  # fmt: skip
def test_status_decides_what_follows(status: int, result: str) -> None:
    found = classify(status, {}, NOW)

    assert found.result == result
    assert found.retry_after_s is None
    assert (found.detail == "") == (result == "delivered")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("999999999999999999999", MAX_RETRY_AFTER_S),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 60.0),
        ("Sun, 01 Mar 2026 12:01:00", 60.0),
        ("Sun, 01 Mar 2099 12:01:00 GMT", MAX_RETRY_AFTER_S),
        ("Sun, 01 Mar 2020 12:01:00 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("١٢", None),
        ("", None),
    ],
)
def test_retry_after_is_obeyed_within_a_bound(value: str, seconds: float | None) -> None:
    assert classify(503, {"retry-after": value}, NOW).retry_after_s == seconds


def test_retry_after_of_a_real_response_is_read(receiver: Receiver) -> None:
    receiver.replies = [Reply(503, {"Retry-After": "9"})]

    assert attempt(receiver.url) == Attempt("unavailable", "the receiver returned status 503", 9.0)


def test_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.replies = [Reply(307, {"Location": f"{receiver.url}/elsewhere"})]
    found = attempt(receiver.url)

    assert len(receiver.requests) == 1
    assert found.result == "rejected"
    assert "redirects are not followed" in found.detail


def test_slow_receiver_is_given_up_after_the_timeout(receiver: Receiver) -> None:
    receiver.replies = [Reply(delay_s=20)]
    started = time.monotonic()
    found = attempt(receiver.url, timeout_s=0.3)

    assert found == Attempt("unavailable", "no response within 0.3 s")
    assert time.monotonic() - started < 3


def test_receiver_that_sends_byte_by_byte_is_given_up_after_the_timeout() -> None:
    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            for _ in range(200):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        except OSError:
            pass
        finally:
            writer.close()

    async def run() -> Attempt:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sink = WebhookSink(config(f"http://127.0.0.1:{port}/", timeout_s=0.4))
        await sink.open(lambda: None)
        try:
            return await sink.deliver(EVENT)
        finally:
            await sink.close()
            server.close()

    assert asyncio.run(run()).result == "unavailable"


def test_long_response_is_not_read_to_its_end(receiver: Receiver) -> None:
    receiver.default = Reply(body=b"x" * 5_000_000)

    assert attempt(receiver.url).result == "delivered"


def test_receiver_that_is_not_running_is_unavailable() -> None:
    with receive() as gone:
        url = gone.url

    assert attempt(url) == Attempt("unavailable", "the connection failed")


def test_failures_name_neither_url_nor_library() -> None:
    found = attempt("http://127.0.0.1:9/path-secret")

    assert "path-secret" not in found.detail
    assert "Errno" not in found.detail
    assert "attempts failed" not in found.detail


def test_connection_that_ends_without_a_response_is_unavailable() -> None:
    async def run() -> Attempt:
        async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        sink = WebhookSink(config(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
        await sink.open(lambda: None)
        try:
            return await sink.deliver(EVENT)
        finally:
            await sink.close()
            server.close()

    assert asyncio.run(run()) == Attempt("unavailable", "the connection was closed before a response arrived")


def server_context(*, ask_for_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    if ask_for_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(TLS / "ca.pem")
    return context


def test_certificate_is_verified_with_the_ca_file() -> None:
    with receive(context=server_context()) as receiver:
        trusted = attempt(receiver.url, tls={"ca_file": str(TLS / "ca.pem")})
        untrusted = attempt(receiver.url)

        assert trusted.result == "delivered"
        assert untrusted == Attempt("unavailable", "the certificate of the receiver is not trusted; set tls.ca_file")
        assert len(receiver.requests) == 1


def test_client_certificate_is_presented() -> None:
    with receive(context=server_context(ask_for_certificate=True)) as receiver:
        ca = {"ca_file": str(TLS / "ca.pem")}

        assert attempt(receiver.url, tls=ca | {"cert_file": str(TLS / "client.pem")}).result == "delivered"
        assert attempt(receiver.url, tls=ca).result == "unavailable"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ssl.SSLError("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert"), "requires a client certificate"),
        (ssl.SSLError("[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error"), "was closed before"),
        (ConnectionResetError("Connection reset by peer"), "was closed before"),
    ],
)
def test_error_that_httpx_passes_on_is_an_unavailable_receiver(
    error: OSError, reason: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(httpx.AsyncClient, "stream", fail)

    found = attempt(receiver.url)

    assert found.result == "unavailable"
    assert reason in found.detail


def test_environment_neither_adds_a_proxy_nor_credentials(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    assert attempt(receiver.url).result == "delivered"


def test_proxy_of_the_configuration_is_used(receiver: Receiver) -> None:
    proxy = f"http://127.0.0.1:{receiver.port}"

    assert attempt("http://mes.invalid/hook", proxy=proxy).result == "delivered"
    assert receiver.requests[0].path == "http://mes.invalid/hook"


def test_event_of_a_test_has_no_inspection() -> None:
    document = json.loads(make_test_event().body)

    assert document["event_type"] == "test"
    assert document["inspection"] is None
    assert datetime.fromisoformat(document["created_at"]).tzinfo is not None
