"""TLS for requests and streams, and what a stream sends in its handshake, against servers of the tests' own."""

from __future__ import annotations

import asyncio
import http
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from plumbline_client import (
    AsyncClient,
    Client,
    PlumblineClientError,
    ServiceProblem,
    ServiceUnreachable,
    StreamClosed,
    UnexpectedResponse,
)
from plumbline_client.schemas.stream import StreamResult

# Made by tls/make.sh; valid for a hundred years.
TLS = Path(__file__).parent / "tls"
CA, SERVER, CLIENT = TLS / "ca.pem", TLS / "server.pem", TLS / "client.pem"
READY = {"status": "ready", "reasons": [], "products": ["widget"], "broken_bundles": [], "version": "1"}


class StubService:
    """Sends a readiness report for every GET request, and a result for every frame of a stream."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: list[Headers] = []
        self.lose_connection = False
        self.speak_nonsense = False

    def request(self, _connection: ServerConnection, request: Request) -> Response | None:
        self.headers.append(request.headers)
        if request.path.endswith("/ghost/stream"):
            problem = json.dumps({"type": "/problems#unknown-product", "detail": "There is no product ghost."})
            return Response(404, "Not Found", Headers(), problem.encode())
        if "Upgrade" in request.headers:
            return None
        return Response(http.HTTPStatus.OK, "OK", Headers({"Connection": "close"}), json.dumps(READY).encode())

    def stream(self, connection: ServerConnection) -> None:
        index = 0
        for message in connection:
            if isinstance(message, bytes):
                if self.lose_connection:
                    connection.socket.shutdown(socket.SHUT_RDWR)
                    return
                result = {"type": "result", "index": index, "name": None, "inspection": None, "problem": None}
                connection.send("[]" if self.speak_nonsense else json.dumps(result))
                index += 1
            elif json.loads(message)["type"] == "end":
                return


@contextmanager
def stub_service(*, tls: bool = True, ask_for_certificate: bool = False) -> Iterator[StubService]:
    stub = StubService()
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(SERVER)
        if ask_for_certificate:
            context.load_verify_locations(CA)
            context.verify_mode = ssl.CERT_REQUIRED
    with serve(stub.stream, "127.0.0.1", 0, ssl=context, process_request=stub.request) as server:
        port = server.socket.getsockname()[1]
        stub.url = f"http{'s' if tls else ''}://localhost:{port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()


def stream(is_async: bool, url: str, product: str = "widget", **options: Any) -> list[StreamResult]:
    frames = [b"1", b"2", b"3"]
    if not is_async:
        with Client(url, **options) as plumbline:
            return list(plumbline.stream(product, frames))

    async def source() -> AsyncIterator[bytes]:
        for frame in frames:
            yield frame

    async def run() -> list[StreamResult]:
        async with AsyncClient(url, **options) as plumbline:
            return [result async for result in plumbline.stream(product, source())]

    return asyncio.run(run())


def readiness(is_async: bool, url: str, **options: Any) -> str:
    if not is_async:
        with Client(url, **options) as plumbline:
            return plumbline.readiness().status

    async def run() -> str:
        async with AsyncClient(url, **options) as plumbline:
            return (await plumbline.readiness()).status

    return asyncio.run(run())


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every way to name the CA or to do without."""
    return {"path": CA, "text": str(CA), "context": ssl.create_default_context(cafile=CA), "off": False}


@pytest.mark.parametrize("way", ["path", "text", "context", "off"])
def test_server_certificate_is_verified_as_asked(is_async: bool, trusted: dict[str, Any], way: str) -> None:
    with stub_service() as service:
        assert readiness(is_async, service.url, verify=trusted[way]) == "ready"
        assert [result.index for result in stream(is_async, service.url, verify=trusted[way])] == [0, 1, 2]


def test_unknown_certificate_is_refused(is_async: bool) -> None:
    with stub_service() as service:
        for attempt in (readiness, stream):
            with pytest.raises(ServiceUnreachable, match=r"(?i)certificate"):
                attempt(is_async, service.url)


def test_failures_of_tls_name_the_option_that_is_missing(is_async: bool, tmp_path: Path) -> None:
    with stub_service() as service:
        with pytest.raises(ServiceUnreachable) as unknown:
            readiness(is_async, service.url)
        with pytest.raises(ServiceUnreachable) as unencrypted:
            readiness(is_async, service.url.replace("https:", "http:"))
    for name in ("PLUMBLINE_CA_FILE", "--ca-file", "verify="):
        assert name in str(unknown.value)
    assert "https://" in unencrypted.value.reason


def test_client_certificate_is_sent(is_async: bool, tmp_path: Path) -> None:
    certificate, key = tmp_path / "client.crt", tmp_path / "client.key"
    head, marker, rest = CLIENT.read_text(encoding="utf-8").partition("-----BEGIN PRIVATE KEY-----")
    certificate.write_text(head, encoding="utf-8")
    key.write_text(marker + rest, encoding="utf-8")
    with stub_service(ask_for_certificate=True) as service:
        for cert in (CLIENT, str(CLIENT), (certificate, key), (certificate, str(key), "no password is needed")):
            assert readiness(is_async, service.url, verify=CA, cert=cert) == "ready"
            assert len(stream(is_async, service.url, verify=CA, cert=cert)) == 3
        for attempt in (readiness, stream):
            with pytest.raises(PlumblineClientError):
                attempt(is_async, service.url, verify=CA)


@pytest.mark.parametrize("options", [{"verify": "none.pem"}, {"verify": __file__}, {"cert": "none.pem"}, {"cert": CA}])
def test_unreadable_certificate_is_named(options: dict[str, Any]) -> None:
    (name, path) = next(iter(options.items()))
    for client in (Client, AsyncClient):
        with pytest.raises(ValueError, match=rf"{name}: .*{Path(path).name}"):
            client("https://localhost", **options)


def test_stream_sends_headers_and_authentication(is_async: bool) -> None:
    with stub_service(tls=False) as service:
        stream(is_async, service.url, headers={"X-Station": "A2"}, auth=("user", "secret"))
        stream(is_async, service.url.replace("//", "//user:secret@"))
        first, second = service.headers
    assert first.get_all("X-Station") == ["A2"]
    assert len(first.get_all("Host")) == 1
    for headers in (first, second):
        assert headers.get_all("Authorization") == ["Basic dXNlcjpzZWNyZXQ="]


def test_refused_stream_is_a_problem(is_async: bool) -> None:
    with stub_service(tls=False) as service, pytest.raises(ServiceProblem, match="no product ghost") as caught:
        stream(is_async, service.url, "ghost")
    assert (caught.value.status, caught.value.slug) == (404, "unknown-product")


def test_stream_that_cannot_be_opened_is_unreachable(is_async: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        # The server accepts the connection and never responds.
        with pytest.raises(ServiceUnreachable):
            stream(is_async, f"http://127.0.0.1:{port}", timeout_s=0.1)
    for url in (f"http://127.0.0.1:{port}", "http://nowhere.invalid"):
        with pytest.raises(ServiceUnreachable) as caught:
            stream(is_async, url)
        assert caught.value.__cause__ is not None
        assert caught.value.url.startswith("ws://")


def test_lost_connection_closes_a_stream(is_async: bool) -> None:
    with stub_service(tls=False) as service:
        service.lose_connection = True
        with pytest.raises(StreamClosed, match="connection was lost") as caught:
            stream(is_async, service.url)
    assert caught.value.code is None


def test_message_of_another_protocol_is_unexpected(is_async: bool) -> None:
    with stub_service(tls=False) as service:
        service.speak_nonsense = True
        with pytest.raises(UnexpectedResponse):
            stream(is_async, service.url)


def test_failing_source_of_frames_raises_its_own_error() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"1"
        raise RuntimeError("the camera is disconnected")

    async def run(url: str) -> None:
        async with AsyncClient(url) as plumbline:
            [result async for result in plumbline.stream("widget", source())]

    with stub_service(tls=False) as service, pytest.raises(RuntimeError, match="disconnected"):
        asyncio.run(run(service.url))


def test_source_of_frames_is_cancelled_with_its_stream() -> None:
    ended: list[str] = []

    async def source() -> AsyncIterator[bytes]:
        try:
            yield b"1"
            await asyncio.sleep(3600)
        finally:
            ended.append("source")

    async def run(url: str) -> None:
        async with AsyncClient(url) as plumbline:
            results = plumbline.stream("widget", source())
            assert (await anext(results)).index == 0
            await results.aclose()  # type: ignore[attr-defined]
            ended.append("stream")

    with stub_service(tls=False) as service:
        asyncio.run(run(service.url))
    assert ended == ["source", "stream"]
