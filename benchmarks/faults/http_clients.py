"""Clients for the fault scripts over HTTP: polite, greedy, slow and silent ones, each from a loopback address."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.serving import ServiceProcess

POLITE, GREEDY = "127.0.0.2", "127.0.0.3"
TIMEOUT_S = 60
CLOSED_PORT = -1
"""Counted in place of a status if no connection was possible, because the service has closed its port."""


def connect(service: ServiceProcess, source: str, *, receive_buffer: int | None = None) -> socket.socket:
    """Return a plain connection from a loopback address."""
    address = urlsplit(service.url)
    connection = socket.socket()
    connection.settimeout(TIMEOUT_S)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.bind((source, 0))
    connection.connect((str(address.hostname), int(address.port or 0)))
    return connection


def head(method: str, path: str, **headers: str | int) -> bytes:
    """Return the head of a request; underscores in names of headers become hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def is_closed(connection: socket.socket) -> bool:
    """Return whether the service has closed the connection."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@dataclass
class Requests:
    """Results of one client, or of several.

    Attributes:
        statuses: Number of responses by status; 0 counts connections that ended without a response.
        seconds: Durations of successful requests.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return the results as JSON values."""
        median = round(1000 * statistics.median(self.seconds), 1) if self.seconds else None
        return {"statuses": dict(sorted(self.statuses.items())), "p50_ms": median}


def post(
    service: ServiceProcess, source: str, product: str, image: bytes, results: Requests, connection: Any = None
) -> http.client.HTTPConnection:
    """Post one image, record the result, and return the connection for the next one."""
    address = urlsplit(service.url)
    client: http.client.HTTPConnection = connection or http.client.HTTPConnection(
        str(address.hostname), address.port, TIMEOUT_S, (source, 0)
    )
    started = time.perf_counter()
    try:
        client.request(
            "POST", f"/v1/products/{product}/inspections", image, {"Content-Type": "application/octet-stream"}
        )
        response = client.getresponse()
        response.read()
    except ConnectionRefusedError:
        results.statuses[CLOSED_PORT] += 1
        return client
    except (OSError, http.client.HTTPException):
        client.close()
        results.statuses[0] += 1
        return client
    results.statuses[response.status] += 1
    if response.status == 201:
        results.seconds.append(time.perf_counter() - started)
    return client


def polite(
    service: ServiceProcess, product: str, image: bytes, *, count: int, pause_s: float, limit_s: float = 60
) -> Requests:
    """Post images one after the other from the polite client's address, each on a new connection."""
    results = Requests()
    give_up = time.perf_counter() + limit_s
    for _ in range(count):
        if time.perf_counter() > give_up:
            break
        post(service, POLITE, product, image, results).close()
        time.sleep(pause_s)
    return results


@contextmanager
def greedy(
    service: ServiceProcess, product: str, image: bytes, connections: int, pause_s: float = 0.0
) -> Iterator[Requests]:
    """Post images over many connections of one address without a pause until the block ends."""
    results, stop = Requests(), threading.Event()

    def send() -> None:
        connection = None
        while not stop.is_set():
            connection = post(service, GREEDY, product, image, results, connection)
            stop.wait(pause_s)

    threads = [threading.Thread(target=send) for _ in range(connections)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def trickle(connections: list[socket.socket], piece: bytes = b"x", pause_s: float = 1.0) -> Iterator[None]:
    """Send one piece per second on every connection until the block ends."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(pause_s):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(piece)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_until(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait for a condition and return the seconds it took; the timeout if it did not occur."""
    started = time.perf_counter()
    while not condition():
        if time.perf_counter() - started > timeout_s:
            return timeout_s
        time.sleep(0.1)
    return round(time.perf_counter() - started, 1)


def request_json(service: ServiceProcess, path: str) -> Any:
    """Return a JSON document of the service."""
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
