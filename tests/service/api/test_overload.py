"""Requests beyond a limit are refused at once, and what they would have used stays free."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.app import begin_drain
from service.schemas.problem import TYPE_PREFIX
from tests.problems import assert_problem
from tests.running_service import GOOD, INSPECT, HttpService, RunningService, Serve

PROPOSE = "/v1/products/widget/thresholds:propose"
IMAGE = {"content-type": "image/png"}


def test_full_queue_rejects_at_once_and_recovers(serve: Serve) -> None:
    with serve(queue_limit=1, max_batch=1) as service:
        with service.occupied(), service.connect() as client:
            client.sendall(_head(10**5))  # refused before the body is sent
            assert b"/problems#queue-full" in _read_response(client)
            problem = assert_problem(service.inspect(), 503, "queue-full")
        assert problem["limit"] == 1
        assert 'inspection_shed_total{reason="queue_full"} 2.0' in service.client.get("/metrics").text
        assert service.inspect().status_code == 201


@pytest.mark.slow
def test_client_that_ignores_retry_after_gets_its_refusals_later(serve: Serve) -> None:
    with serve(queue_limit=1, max_batch=1) as service, service.occupied(), ExitStack() as connections:
        started = time.perf_counter()
        clients = [connections.enter_context(service.connect()) for _ in range(40)]
        for client in clients:
            client.sendall(_head(10**5))
        # The mean duration of an inspection is unknown, so a place is expected every 0.1 s.
        responses = [_read_response(clients[0])]
        first_s = time.perf_counter() - started
        assert service.client.get("/health/live").status_code == 200
        responses += [_read_response(client) for client in clients[1:]]
        last_s = time.perf_counter() - started
        assert all(b"/problems#queue-full" in one and b"retry-after: " in one for one in responses)
        assert last_s > first_s + 0.5


def test_stream_beyond_the_limit_is_rejected_with_a_problem(serve: Serve) -> None:
    slug = "too-many-streams"
    with serve(max_streams=1) as service:
        url = f"ws://127.0.0.1:{service.port}/v1/products/widget/stream"
        with connect(url), pytest.raises(InvalidStatus) as caught, connect(url):
            pass
        rejection = caught.value.response
        assert (rejection.status_code, rejection.headers["retry-after"]) == (503, "5")
        assert json.loads(rejection.body)["type"] == TYPE_PREFIX + slug


def test_slow_body_is_refused_and_takes_no_place_in_the_queue(serve: Serve) -> None:
    with serve(body_timeout_s=0.2, queue_limit=1, max_batch=1) as service, service.connect() as slow:
        slow.sendall(_head(len(GOOD)) + GOOD[:100])
        assert service.inspect().status_code == 201
        response = _read_response(slow)
        assert response.startswith(b"HTTP/1.1 408")
        assert b"/problems#request-timeout" in response
        assert service.admission.depth == 0


def test_disconnect_frees_the_place_in_the_queue(serve: Serve) -> None:
    with serve(queue_limit=2, max_batch=1) as service, service.occupied():
        with service.connect() as gone:
            gone.sendall(_head(len(GOOD)) + GOOD)
            _wait_for(lambda: service.admission.depth == 2)
        _wait_for(lambda: service.admission.depth == 1)
        assert service.client.get("/v1/inspections").json()["items"] == []


def test_inspection_past_its_deadline_returns_no_verdict(serve: Serve) -> None:
    with serve(queue_deadline_s=1e-9) as service:
        assert_problem(service.inspect(), 503, "deadline-exceeded")
        assert service.client.get("/v1/inspections").json()["items"] == []


def test_draining_service_rejects_images_but_serves_other_requests(serve: Serve) -> None:
    with serve() as service:
        stored = service.inspect().json()
        begin_drain(service.app)
        assert_problem(service.inspect(), 503, "shutting-down")
        assert service.client.get("/health/ready").json()["status"] == "draining"
        assert service.client.get("/health/live").status_code == 200
        assert service.client.get(stored["links"]["self"]).status_code == 200


def test_one_proposal_is_made_at_a_time(serve: Serve) -> None:
    request_body = {"author": "a", "target_false_reject_rate": 0.1}
    with serve() as service:
        with service.services.proposals.reserve():
            assert_problem(service.client.post(PROPOSE, json=request_body), 503, "proposals-busy")
        assert service.client.post(PROPOSE, json=request_body).status_code == 201


def test_content_length_over_the_limit_is_rejected_before_the_body_is_sent(service: RunningService) -> None:
    with service.connect() as client:
        client.sendall(_head(10**9))
        response = _read_response(client)
    assert response.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in response.lower()


def test_chunked_body_is_rejected_as_soon_as_it_exceeds_the_limit(service: RunningService) -> None:
    with service.connect() as client:
        head = (
            f"POST {INSPECT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        client.sendall(head.encode())
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        for _ in range(100_000 // 0x4000 + 1):
            client.sendall(chunk)
        # The body is never completed; the response must not wait for it.
        response = _read_response(client)
    assert response.startswith(b"HTTP/1.1 413")
    assert b"/problems#body-too-large" in response
    assert b"connection: close" in response.lower()


def test_rejected_upload_ends_with_the_response_not_with_a_reset(service: HttpService) -> None:
    # Larger than all socket buffers together, so the client is still sending when the response arrives.
    for _ in range(3):
        response = service.client.post(INSPECT, content=iter([b"x" * 2**20] * 16), headers=IMAGE)
        assert_problem(response, 413, "body-too-large")


def _head(length: int) -> bytes:
    lines = [f"POST {INSPECT} HTTP/1.1", "Host: localhost", "Content-Type: image/png", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _read_response(connection: socket.socket) -> bytes:
    response = b""
    while chunk := connection.recv(65536):
        response += chunk
        _, _, body = response.partition(b"\r\n\r\n")
        if body and body.rstrip().endswith(b"}"):
            json.loads(body)
            break
    return response


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
