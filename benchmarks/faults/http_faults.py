"""Repeat the faults of clients over HTTP: slow, silent, many and greedy ones, and a shutdown under load.

    python -m benchmarks.faults.http_faults --models models --product washer
    python -m benchmarks.faults.http_faults --models models --product washer --only greedy-clients

Every fault runs against a service process of its own, on the loopback, for a bounded time. Prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect as open_websocket

from benchmarks.faults.http_clients import (
    CLOSED_PORT,
    GREEDY,
    POLITE,
    Requests,
    connect,
    greedy,
    head,
    is_closed,
    polite,
    post,
    request_json,
    trickle,
    wait_until,
)
from benchmarks.load import good_jpeg
from tests.serving import ServiceProcess, service_process

MIB = 2**20
_Fault = Callable[[Path, str], dict[str, Any]]


@contextmanager
def running(models: Path, settings: Mapping[str, str] | None = None, **options: Any) -> Iterator[ServiceProcess]:
    """Run a service with a temporary data folder."""
    with (
        tempfile.TemporaryDirectory() as data,
        service_process(models, Path(data), {"provider": "cpu"} | dict(settings or {}), **options) as service,
    ):
        service.wait_until(200)
        yield service


def large_image() -> bytes:
    """Return a BMP image of almost 32 MiB."""
    pixels = np.random.default_rng(0).integers(0, 256, (3280, 3400, 3), np.uint8)
    return cv2.imencode(".bmp", pixels)[1].tobytes()


def slow_readers(models: Path, product: str) -> dict[str, Any]:
    """Measure memory while 40 clients request an image of 32 MiB and do not read the response."""
    with running(models) as service, ExitStack() as clients:
        stored = Requests()
        post(service, POLITE, product, large_image(), stored).close()
        image = request_json(service, "/v1/inspections")["items"][0]["links"]["image"]
        before = service.rss_bytes()
        connections = [clients.enter_context(connect(service, GREEDY, receive_buffer=4096)) for _ in range(40)]
        for connection in connections:
            connection.sendall(head("GET", image))
        peak = 0
        open_s = 0.0
        started = time.perf_counter()
        while time.perf_counter() - started < 40:
            peak = max(peak, service.rss_bytes() - before)
            if _established(service, GREEDY) == 0:
                break
            open_s = time.perf_counter() - started
            time.sleep(0.2)
        return {"peak_mib": round(peak / MIB), "connections_open_s": round(open_s, 1)}


def slow_bodies(models: Path, product: str) -> dict[str, Any]:
    """Post images politely while 70 connections send a body with one byte per second."""
    image = good_jpeg(models, product, (512, 512))
    with running(models) as service, ExitStack() as clients:
        slow = [clients.enter_context(connect(service, GREEDY)) for _ in range(70)]
        path = f"/v1/products/{product}/inspections"
        for connection in slow:
            connection.sendall(head("POST", path, Content_Type="image/jpeg", Content_Length=len(image)) + image[:10])
        time.sleep(0.5)
        with trickle(slow):
            results = polite(service, product, image, count=54, pause_s=0.4, limit_s=40)
        return {"polite": results.report(), "slow_connections_closed": sum(map(is_closed, slow))}


def idle_connections(models: Path, product: str) -> dict[str, Any]:
    """Open 200 connections that send nothing and 300 that never complete their headers."""
    with running(models) as service, ExitStack() as clients:
        idle = [clients.enter_context(connect(service, GREEDY)) for _ in range(200)]
        slow = [clients.enter_context(connect(service, GREEDY)) for _ in range(300)]
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        with trickle(slow):
            idle_s = wait_until(lambda: all(map(is_closed, idle)), 40)
            slow_s = wait_until(lambda: all(map(is_closed, slow)), max(0, 40 - idle_s))
        results = polite(service, product, good_jpeg(models, product, (512, 512)), count=5, pause_s=0)
        return {
            "idle_closed": sum(map(is_closed, idle)),
            "idle_closed_after_s": idle_s,
            "slow_headers_closed": sum(map(is_closed, slow)),
            "slow_headers_closed_after_s": idle_s + slow_s,
            "polite": results.report(),
        }


def few_descriptors(models: Path, product: str) -> dict[str, Any]:
    """Post images politely while 104 idle connections are open to a process that may open 64 files."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with running(models, preexec_fn=limit) as service, ExitStack() as clients:
        for _ in range(104):
            with contextlib.suppress(OSError):
                clients.enter_context(connect(service, GREEDY))
        time.sleep(0.5)
        results = polite(service, product, good_jpeg(models, product, (512, 512)), count=20, pause_s=0.1)
        errors = sum("Too many open files" in json.dumps(entry) for entry in service.log)
        return {"polite": results.report(), "accept_errors_logged": errors}


def large_bodies(models: Path, product: str) -> dict[str, Any]:
    """Post an image of 32 MiB from 60 clients at once."""
    image = large_image()
    with running(models) as service:
        results = Requests()
        threads = [
            threading.Thread(target=lambda: post(service, GREEDY, product, image, results).close()) for _ in range(60)
        ]
        peak, before = 0, service.rss_bytes()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, service.rss_bytes())
            time.sleep(0.02)
        return {"responses": results.report(), "before_mib": round(before / MIB), "peak_mib": round(peak / MIB)}


def silent_streams(models: Path, product: str) -> dict[str, Any]:
    """Connect a camera while 16 streams send nothing after the first message."""

    def stream(service: ServiceProcess, source: str) -> None:
        url = f"ws{service.url.removeprefix('http')}/v1/products/{product}/stream"
        camera = cameras.enter_context(open_websocket(url, compression=None, source_address=(source, 0)))
        camera.send('{"type": "hello"}')
        camera.recv(timeout=10)

    with running(models, {"stream_idle_timeout_s": "10"}) as service, ExitStack() as cameras:
        refused = 0
        for _ in range(16):
            try:
                stream(service, GREEDY)
            except InvalidStatus:
                refused += 1
        opened = 0
        for _ in range(3):
            try:
                stream(service, POLITE)
                opened += 1
            except (InvalidStatus, WebSocketException):
                time.sleep(1)
        return {"silent_refused": refused, "polite_opened_of_3": opened}


def greedy_clients(models: Path, product: str) -> dict[str, Any]:
    """Post images politely, alone and beside 32 and 80 connections of a client that ignores Retry-After."""
    image = good_jpeg(models, product, (512, 512))
    report: dict[str, Any] = {}
    with running(models) as service:
        polite(service, product, image, count=10, pause_s=0)
        report["alone"] = polite(service, product, image, count=20, pause_s=0.05).report()
        for connections in (32, 80):
            with greedy(service, product, image, connections) as others:
                time.sleep(2)
                report[f"beside_{connections}"] = polite(service, product, image, count=17, pause_s=0.2).report()
            report[f"greedy_{connections}"] = others.report()
    return report


def keep_alive_shutdown(models: Path, product: str) -> dict[str, Any]:
    """Send SIGTERM five times while 20 clients post images over persistent connections."""
    image = good_jpeg(models, product, (256, 256))
    results = Requests()
    for _ in range(5):
        with running(models) as service:

            def send(service: ServiceProcess = service) -> None:
                connection, own = None, Requests()
                while not own.statuses[CLOSED_PORT] and not own.statuses[0]:
                    connection = post(service, GREEDY, product, image, own, connection)
                    time.sleep(0.01)
                results.statuses.update(own.statuses)

            threads = [threading.Thread(target=send) for _ in range(20)]
            for thread in threads:
                thread.start()
            time.sleep(2)
            service.process.terminate()
            service.process.wait(60)
            for thread in threads:
                thread.join()
    return {"connections_without_response": results.statuses[0], "responses": results.report()["statuses"]}


def _established(service: ServiceProcess, source: str) -> int:
    """Return the number of connections that the service has open to an address (Linux)."""
    port = int(service.url.rpartition(":")[2])
    local = f":{port:04X}"
    remote = "".join(f"{int(part):02X}" for part in reversed(source.split(".")))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(local) and row[2].startswith(remote) and row[9] != "0" for row in rows)


FAULTS: dict[str, _Fault] = {
    "slow-readers": slow_readers,
    "slow-bodies": slow_bodies,
    "idle-connections": idle_connections,
    "few-descriptors": few_descriptors,
    "large-bodies": large_bodies,
    "silent-streams": silent_streams,
    "greedy-clients": greedy_clients,
    "keep-alive-shutdown": keep_alive_shutdown,
}


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")],
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    only: Annotated[str, typer.Option(help="Names of faults, comma-separated; all by default.")] = ",".join(FAULTS),
) -> None:
    """Run the faults and print what was measured."""
    for name in only.split(","):
        typer.echo(json.dumps({name: FAULTS[name](models.absolute(), product)}))


if __name__ == "__main__":
    typer.run(main)
