"""Clients that are slow, silent, greedy or many do not affect others, and connections end with a response."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as open_websocket

from service.api.http import body_limit
from service.api.http.http_protocol import MAX_HEAD_BYTES
from service.app import begin_drain
from tests.problems import assert_problem
from tests.running_service import GOOD, INSPECT, RunningService, Serve, encode

OTHER = "127.0.0.2"
IMAGE = {"content-type": "image/png"}


def head(length: int, path: str = INSPECT) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: image/png", f"Content-Length: {length}", "", "")
    return "\r\n".join(lines).encode()


def connect(service: RunningService, source: str = "127.0.0.1", *, receive_buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(10)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.bind((source, 0))
    connection.connect(("127.0.0.1", service.port))
    return connection


@contextmanager
def client_from(service: RunningService, source: str) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(local_address=source)
    with httpx.Client(base_url=service.client.base_url, transport=transport, timeout=10) as client:
        yield client


def read_all(connection: socket.socket) -> bytes:
    response = b""
    while chunk := connection.recv(65536):
        response += chunk
    return response


def assert_raw_problem(response: bytes, status: int, slug: str) -> None:
    start, _, body = response.partition(b"\r\n\r\n")
    assert start.startswith(f"HTTP/1.1 {status} ".encode()), response
    assert b"\r\nconnection: close" in start.lower()
    assert b"application/problem+json" in start
    problem = json.loads(body)
    assert (problem["status"], problem["type"]) == (status, f"/problems#{slug}")


def metric(service: RunningService, name: str) -> float:
    with httpx.Client(base_url=service.client.base_url) as client:
        text = client.get("/metrics").text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_client_that_does_not_read_is_disconnected_and_uses_little_memory(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = encode(np.zeros((2400, 2400, 3), np.uint8), ".bmp")
    with serve(write_timeout_s=0.5) as service, ExitStack() as clients:
        stored = service.inspect(image).json()
        read: list[int] = []
        read_piece = service.services.artefacts.read_piece

        async def count(file: Any, offset: int) -> bytes:
            read.append(offset)
            return await read_piece(file, offset)

        monkeypatch.setattr(service.services.artefacts, "read_piece", count)
        for _ in range(3):
            connection = clients.enter_context(connect(service, receive_buffer=4096))
            connection.sendall(f"GET {stored['links']['image']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_for(lambda: metric(service, 'http_connections_closed_total{reason="write"}') == 3)
        assert len(read) * 2**18 < 3 * len(image) / 2, "the image was read although nobody received it"
        assert service.client.get(stored["links"]["image"]).content == image


@pytest.mark.slow
def test_large_responses_have_a_memory_budget(serve: Serve) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    with serve(max_inflight_body_bytes=2**20, max_body_bytes=2**20) as service:
        stored = service.inspect(encode(noise, ".jpg")).json()
        assert_problem(
            service.client.get(stored["links"]["image"], params={"format": "png"}), 503, "memory-budget-exceeded"
        )
        assert service.client.get(stored["links"]["image"]).status_code == 200


def test_slow_bodies_take_no_place_of_other_clients(serve: Serve) -> None:
    with serve(queue_limit=4, max_batch=1) as service, ExitStack() as clients:
        for _ in range(70):
            clients.enter_context(connect(service)).sendall(head(len(GOOD)) + GOOD[:10])
        assert [service.inspect().status_code for _ in range(5)] == [201] * 5


@pytest.mark.slow
def test_body_below_the_lowest_rate_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "_RATE_GRACE_S", 0.2)
    for path in (INSPECT, INSPECT + ":batch"):
        with serve(min_body_rate=10**6) as service, connect(service) as slow:
            media_type = b"image/png" if path == INSPECT else b"application/zip"
            slow.sendall(head(len(GOOD), path).replace(b"image/png", media_type) + GOOD[:10])
            time.sleep(0.05)
            slow.sendall(GOOD[10:20])
            assert_raw_problem(read_all(slow), 408, "body-too-slow")


@pytest.mark.slow
def test_idle_connections_and_slow_headers_are_closed(serve: Serve) -> None:
    with serve(idle_timeout_s=0.3, header_timeout_s=0.3) as service, ExitStack() as clients:
        silent, used, slow = (clients.enter_context(connect(service)) for _ in range(3))
        used.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        slow.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        assert read_all(silent) == b""
        assert read_all(used).startswith(b"HTTP/1.1 200")
        for _ in range(100):  # more bytes do not extend the time
            try:
                slow.sendall(b"x")
            except OSError:
                break
            time.sleep(0.02)
        assert metric(service, 'http_connections_closed_total{reason="headers"}') == 1


@pytest.mark.slow
def test_slow_header_is_refused_with_a_problem(serve: Serve) -> None:
    with serve(header_timeout_s=0.2) as service, connect(service) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        assert_raw_problem(read_all(slow), 408, "request-timeout")


def test_new_connection_replaces_an_idle_one(serve: Serve) -> None:
    with serve(max_connections=8) as service, ExitStack() as clients:
        for _ in range(30):
            clients.enter_context(connect(service))
        assert [service.inspect().status_code for _ in range(3)] == [201] * 3
        assert metric(service, "http_connections") <= 8


@pytest.mark.slow
def test_connection_beyond_the_limit_is_refused_with_a_problem(serve: Serve) -> None:
    with serve(max_connections=8) as service, ExitStack() as clients:
        busy = [clients.enter_context(connect(service)) for _ in range(8)]
        for connection in busy:
            connection.sendall(head(len(GOOD)) + GOOD[:10])
        time.sleep(0.2)
        with connect(service) as excess:
            assert_raw_problem(read_all(excess), 503, "too-many-connections")
        with client_from(service, OTHER) as other:  # a client with fewer connections replaces one of them
            assert other.get("/health/live").status_code == 200


@pytest.mark.slow
def test_body_beyond_the_memory_budget_is_refused_before_it_is_sent(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.serving.memory_budget._SLOW_AFTER_S", 60.0)
    with serve(max_inflight_body_bytes=2**20, max_body_bytes=700_000) as service, ExitStack() as clients:
        first, second, third = (clients.enter_context(connect(service)) for _ in range(3))
        first.sendall(head(700_000) + b"x")
        wait_for(lambda: metric(service, 'http_body_bytes{direction="request"}') == 700_000)
        second.sendall(head(700_000))
        assert_raw_problem(read_all(second), 503, "memory-budget-exceeded")
        third.sendall(head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        third.sendall(b"80000\r\n" + b"x" * 0x80000 + b"\r\n")
        assert_raw_problem(read_all(third), 503, "memory-budget-exceeded")
        assert metric(service, 'inspection_shed_total{reason="memory_budget_exceeded"}') == 2
        # The first body is slow, so it gives its memory to another one.
        monkeypatch.setattr("service.serving.memory_budget._SLOW_AFTER_S", 0.0)
        assert service.inspect(bytes(700_000)).status_code == 415
        assert_raw_problem(read_all(first), 503, "memory-budget-exceeded")
        assert metric(service, 'http_body_bytes{direction="request"}') == 0


@pytest.mark.slow
def test_silent_stream_ends_with_a_problem(serve: Serve) -> None:
    with serve(stream_idle_timeout_s=0.3) as service, open_stream(service) as camera:
        camera.send('{"type": "hello"}')
        camera.recv(timeout=10)
        camera.send(GOOD)
        assert json.loads(camera.recv(timeout=10))["inspection"]["decision"] == "pass"
        assert json.loads(camera.recv(timeout=10))["problem"]["type"] == "/problems#stream-idle"
        with pytest.raises(ConnectionClosed) as closed:
            camera.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


def test_one_client_cannot_take_all_streams(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(max_streams=2, max_streams_per_client=1) as service, open_stream(service) as first:
        with pytest.raises(InvalidStatus) as refused, open_stream(service):
            pass
        assert "PLUMBLINE_MAX_STREAMS_PER_CLIENT" in refused.value.response.body.decode()
        with open_stream(service, OTHER):
            assert service.services.streams.open_count == 2
        monkeypatch.setattr("service.serving.streams._REPLACEABLE_AFTER_S", 0.0)
        first.send('{"type": "hello"}')
        first.recv(timeout=10)
        with open_stream(service):  # replaces the idle one
            assert json.loads(first.recv(timeout=10))["problem"]["type"] == "/problems#stream-idle"


def open_stream(service: RunningService, source: str = "127.0.0.1") -> Any:
    url = f"ws://127.0.0.1:{service.port}/v1/products/widget/stream"
    return open_websocket(url, compression=None, source_address=(source, 0))


@pytest.mark.slow
def test_frames_have_a_memory_budget(serve: Serve) -> None:
    with serve(max_inflight_body_bytes=2**21, max_body_bytes=2**21, queue_deadline_s=0.2) as service:
        held = service.app.state.body_memory.reserve("other", 2**21 - 1000)
        with open_stream(service) as camera:
            camera.send('{"type": "hello"}')
            camera.recv(timeout=10)
            camera.send(bytes(2000))
            assert json.loads(camera.recv(timeout=10))["problem"]["type"] == "/problems#memory-budget-exceeded"
            threading.Timer(0.5, held.release).start()
            camera.send(bytes(3 * 2**19))  # larger than the free memory: it is read when memory is free
            assert json.loads(camera.recv(timeout=10))["problem"]["type"] == "/problems#not-an-image"
        wait_for(lambda: service.app.state.body_memory.used == 0)


@pytest.mark.slow
def test_greedy_client_does_not_displace_another_one(serve: Serve) -> None:
    with serve(queue_limit=8, max_batch=1) as service:
        stop = threading.Event()

        def send() -> None:
            with httpx.Client(base_url=service.client.base_url, timeout=10) as client:
                while not stop.is_set():
                    client.post(INSPECT, content=GOOD, headers=IMAGE)

        threads = [threading.Thread(target=send) for _ in range(16)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: metric(service, 'inspection_shed_total{reason="queue_full"}') > 5)
            with client_from(service, OTHER) as polite:
                statuses = [polite.post(INSPECT, content=GOOD, headers=IMAGE).status_code for _ in range(10)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert statuses == [201] * 10


@pytest.mark.slow
def test_deadline_holds_while_an_image_waits_for_its_turn(serve: Serve) -> None:
    with serve(queue_limit=2, max_batch=1, queue_deadline_s=0.2) as service:
        with service.occupied():
            assert_problem(service.inspect(), 503, "deadline-exceeded")
        assert service.admission.depth == 0
        assert service.inspect().status_code == 201


def test_draining_service_responds_and_closes_persistent_connections(serve: Serve) -> None:
    with serve() as service:
        assert "connection" not in service.client.get("/health/live").headers
        begin_drain(service.app)
        service.server.connections.drain()
        response = service.inspect()
        assert_problem(response, 503, "shutting-down")
        assert response.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("request_bytes", "status", "slug"),
    [
        (b"GARBAGE\r\n\r\n", 400, "malformed-request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed-request"),  # TLS
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n", 400, "malformed-request"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400, "malformed-request"),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "malformed-request"),
        (
            head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n",
            400,
            "malformed-request",
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", 431, "headers-too-large"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431, "headers-too-large"),
        (b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, "headers-too-large"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 10**6, 431, "headers-too-large"),  # a header that never ends
        (
            b"GET /v1/products/widget/stream HTTP/1.1\r\nHost: ::\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            400,
            "malformed-request",
        ),
    ],
)
def test_malformed_request_is_refused_with_a_problem(
    service: RunningService, request_bytes: bytes, status: int, slug: str
) -> None:
    with connect(service) as client:
        client.sendall(request_bytes)
        assert_raw_problem(read_all(client), status, slug)


def test_request_before_a_malformed_one_gets_its_response(service: RunningService) -> None:
    with connect(service) as client:
        client.sendall(head(len(GOOD)) + GOOD + b"GARBAGE\r\n\r\n")
        response = read_all(client)
    assert response.startswith(b"HTTP/1.1 201")
    assert b"HTTP/1.1 400" not in response
