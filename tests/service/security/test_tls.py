"""Attacks on TLS: silent and slow handshakes, garbage, and a client that speaks early."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.certificates import TestCertificate, make_certificate
from tests.running_service import RunningService, run_service

REQUEST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMIT = 8


@pytest.fixture(scope="module")
def certificate() -> TestCertificate:
    return make_certificate()


@pytest.fixture(scope="module")
def secure(certificate: TestCertificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    files = certificate.write(tmp_path_factory.mktemp("tls"))
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "models").mkdir()
    options = {"header_timeout_s": 1, "max_connections": LIMIT}
    with run_service(folder / "models", folder / "data", ca=certificate.trust(), **options, **files) as service:
        yield service


def closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(1000):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize("start", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_handshake_that_does_not_continue_ends(secure: RunningService, start: bytes) -> None:
    with secure.connect() as silent:
        silent.sendall(start)
        started = time.monotonic()
        assert closed_within(silent, 5)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("start", [REQUEST, b"\x00" * 1000, b"\x16\x03\x01\xff\xff" + b"a" * 70_000])
def test_garbage_instead_of_a_handshake_ends(secure: RunningService, start: bytes) -> None:
    with secure.connect() as connection:
        connection.sendall(start)
        assert closed_within(connection, 5)


def test_silent_handshakes_count_as_connections_and_are_closed_for_new_ones(
    secure: RunningService, certificate: TestCertificate
) -> None:
    with ExitStack() as silent:
        opened = [silent.enter_context(secure.connect()) for _ in range(3 * LIMIT)]
        with certificate.trust().wrap_socket(secure.connect(), server_hostname="localhost") as client:
            client.sendall(REQUEST)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert len(secure.server.connections._open) <= LIMIT
        assert sum(closed_within(connection, 0.05) for connection in opened) >= LIMIT
    metrics = secure.client.get("/metrics").text
    assert 'http_connections_closed_total{reason="replaced"}' in metrics


def test_request_that_arrives_with_the_end_of_the_handshake_gets_its_response(
    secure: RunningService, certificate: TestCertificate
) -> None:
    """The client sends its last message of the handshake and a request at once."""
    for _ in range(10):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = certificate.trust().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with secure.connect() as connection:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(65536))
            tls.write(REQUEST)
            connection.sendall(outgoing.read())
            received = b""
            while b"alive" not in received:
                incoming.write(connection.recv(65536))
                while True:
                    try:
                        received += tls.read(65536)
                    except ssl.SSLWantReadError:
                        break
            assert received.startswith(b"HTTP/1.1 200 ")


def test_client_has_neither_compression_nor_weak_ciphers(secure: RunningService, certificate: TestCertificate) -> None:
    context = certificate.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with context.wrap_socket(secure.connect(), server_hostname="localhost") as client:
        assert client.version() == "TLSv1.2"
        assert client.compression() is None
        cipher = client.cipher()
        assert cipher is not None
        assert cipher[2] >= 128
