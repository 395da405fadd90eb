"""A service that cannot be reached, by the sync and the async client."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from plumbline_client import (
    PlumblineClientError,
    ServiceUnreachable,
)
from tests.client.calls import URL, call


@contextmanager
def listening(respond: Callable[[socket.socket], None]) -> Iterator[str]:
    """Yield the URL of a server that passes every connection to `respond`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    respond(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def assert_unreachable(is_async: bool, url: str, reason: str, **options: Any) -> None:
    with pytest.raises(ServiceUnreachable) as caught:
        call(is_async, url, "products", **options)
    assert isinstance(caught.value, PlumblineClientError)
    assert caught.value.url == f"{url}/v1/products"
    assert reason in caught.value.reason, caught.value
    assert caught.value.reason
    assert isinstance(caught.value.__cause__, httpx.HTTPError)
    with pytest.raises(ServiceUnreachable):
        call(is_async, url, "readiness", **options)


def test_refused_connection_is_unreachable(is_async: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert_unreachable(is_async, f"http://127.0.0.1:{port}", "")


def test_unknown_host_is_unreachable(is_async: bool) -> None:
    assert_unreachable(is_async, "http://nowhere.invalid", "", timeout_s=20)


@pytest.mark.slow
def test_slow_service_is_unreachable(is_async: bool) -> None:
    def respond(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    with listening(respond) as url:
        assert_unreachable(is_async, url, "no response within 0.1 s", timeout_s=0.1)


def test_lost_connection_is_unreachable(is_async: bool) -> None:
    def respond(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    with listening(respond) as url:
        assert_unreachable(is_async, url, "")


def test_server_without_tls_is_unreachable_over_https(is_async: bool) -> None:
    def respond(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with listening(respond) as url:
        assert_unreachable(is_async, url.replace("http", "https"), "TLS")


def test_credentials_of_the_url_are_in_no_message(is_async: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ServiceUnreachable) as caught:
        call(is_async, f"http://user:secret@127.0.0.1:{port}", "products")
    assert "secret" not in str(caught.value)


def test_image_is_sent_again_once_after_a_closed_connection(is_async: bool) -> None:
    """A proxy closes the connection if the replica failed that had the request."""
    requests: list[httpx.Request] = []

    def close(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")

    with pytest.raises(ServiceUnreachable):
        call(is_async, URL, "inspect", "widget", b"image", handler=close)
    assert len(requests) == 2
    assert len({request.headers["idempotency-key"] for request in requests}) == 1
    assert [request.content for request in requests] == [b"image"] * 2
    requests.clear()
    with pytest.raises(ServiceUnreachable):
        call(is_async, URL, "products", handler=close)
    assert len(requests) == 1, "only requests with a key are sent again"
