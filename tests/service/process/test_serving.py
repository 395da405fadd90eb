"""The service as a real process: killed, stopped, with a full disk, without a GPU."""

from __future__ import annotations

import http.client
import io
import resource
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from tests.running_service import BAD, GOOD, INSPECT, encode
from tests.serving import ServiceProcess, service_process

pytestmark = pytest.mark.slow

CLIENTS = 8
CPU = {"provider": "cpu"}
IMAGE = {"content-type": "image/png"}


class Clients:
    """Eight cameras that send images until they are stopped or the connection fails."""

    def __init__(self, url: str) -> None:
        self.responses: list[httpx.Response] = []
        self.broken: list[Exception] = []
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        wait_for(lambda: len(self.responses) >= count)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._stop.is_set():
                image = BAD if number % 2 else GOOD
                try:
                    self.responses.append(client.post(INSPECT, content=image, headers=IMAGE))
                except httpx.TransportError as error:
                    self.broken.append(error)
                    return


def wait_for(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_stored(service: ServiceProcess, responses: list[httpx.Response]) -> None:
    """Check that every returned inspection is stored unchanged, with its files."""
    with httpx.Client(base_url=service.url, timeout=30) as client:
        for response in responses:
            verdict = response.json()
            assert client.get(verdict["links"]["self"]).json() == verdict
            assert client.get(verdict["links"]["image"]).content in {GOOD, BAD}
            anomaly_map = client.get(verdict["links"]["map"]).content
            assert np.load(io.BytesIO(anomaly_map), allow_pickle=False).shape == (16, 16)


def test_kill_loses_no_returned_inspection(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", CPU) as service:
        service.wait_until(200)
        clients = Clients(service.url)
        clients.wait_for(150)
        service.kill()
        clients.stop()
    answered = [response for response in clients.responses if response.status_code == 201]
    assert len(answered) >= 150
    assert clients.broken, "the process was killed while they were sending"
    with service_process(tiny_models, tmp_path / "data", CPU) as service:
        service.wait_until(200)
        assert_stored(service, answered)
        # No record lacks a file, whether or not its response was sent.
        items = httpx.get(f"{service.url}/v1/inspections", params={"limit": 500}).json()["items"]
        assert {response.json()["id"] for response in answered} <= {item["id"] for item in items}
        for item in items[:CLIENTS]:
            for artefact in ("image", "map"):
                assert httpx.get(service.url + item["links"][artefact]).status_code == 200


def test_sigterm_drains_and_then_ends(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", CPU | {"shutdown_delay_s": "0.5"}) as service:
        service.wait_until(200)
        address = urlsplit(service.url)
        assert address.hostname
        assert address.port
        # An admitted inspection; its image is still being received when the signal arrives.
        with socket.create_connection((address.hostname, address.port), timeout=20) as slow:
            lines = (f"POST {INSPECT} HTTP/1.1", "Host: localhost", "Content-Type: image/png")
            head = "\r\n".join((*lines, f"Content-Length: {len(GOOD)}", "", ""))
            slow.sendall(head.encode() + GOOD[:100])
            received = f'http_body_bytes{{direction="request"}} {float(len(GOOD))}'
            wait_for(lambda: received in httpx.get(f"{service.url}/metrics").text)
            clients = Clients(service.url)
            clients.wait_for(CLIENTS)
            service.process.terminate()
            wait_for(lambda: any(response.status_code == 503 for response in clients.responses))
            ready = httpx.get(f"{service.url}/health/ready")
            assert (ready.status_code, ready.json()["status"]) == (503, "draining")
            refused = next(response for response in clients.responses if response.status_code == 503)
            assert refused.json()["type"].endswith("#shutting-down")
            clients.stop()
            time.sleep(0.6)  # the port is closed now
            slow.sendall(GOOD[100:])
            assert slow.recv(20).startswith(b"HTTP/1.1 201"), "admitted inspections are completed"
        assert service.process.wait(20) == 0
        assert [entry["event"] for entry in service.log if entry["event"] in {"draining", "stopped"}] == [
            "draining",
            "stopped",
        ]
    answered = [response for response in clients.responses if response.status_code == 201]
    assert {response.status_code for response in clients.responses} == {201, 503}
    with service_process(tiny_models, tmp_path / "data", CPU) as service:
        service.wait_until(200)
        assert_stored(service, answered)


def test_sigterm_breaks_no_persistent_connection(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", CPU | {"shutdown_delay_s": "0.5"}) as service:
        service.wait_until(200)
        address = urlsplit(service.url)
        broken, last, inspected = [], [], []

        def send() -> None:
            connection = http.client.HTTPConnection(str(address.hostname), address.port, 20)
            while True:
                is_open = connection.sock is not None
                try:
                    connection.request("POST", INSPECT, GOOD, IMAGE)
                    response = connection.getresponse()
                    response.read()
                except (OSError, http.client.HTTPException) as error:
                    # The port is closed. A connection that nobody had accepted until then is reset.
                    if is_open or not isinstance(error, ConnectionRefusedError | ConnectionResetError):
                        broken.append(repr(error))
                    return
                if response.status == 201:
                    inspected.append(response.headers["location"])
                if response.headers.get("connection") == "close":
                    last.append(response.status)

        threads = [threading.Thread(target=send) for _ in range(20)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        service.process.terminate()
        for thread in threads:
            thread.join()
        assert service.process.wait(20) == 0
    assert broken == []
    assert len(last) >= len(threads)
    assert set(last) <= {201, 503}
    with closing(sqlite3.connect(tmp_path / "data" / "plumbline.db")) as database:
        (stored,) = database.execute("SELECT count(*) FROM inspections").fetchone()
    assert stored == len(inspected), "every inspection was answered"


def test_requested_cuda_is_never_replaced_by_the_cpu(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", {"provider": "cuda"}) as service:
        wait_for(lambda: httpx.get(f"{service.url}/health/ready").json()["status"] != "loading")
        response = httpx.get(f"{service.url}/health/ready")
        if response.status_code == 200:
            pytest.skip("CUDA works here; remove the driver to see this")
        assert "libcuda" in response.text or "CUDA" in response.text, "the missing library is named"
        assert httpx.get(f"{service.url}/health/live").status_code == 200
        assert httpx.post(service.url + INSPECT, content=GOOD, headers=IMAGE).status_code == 503
        assert any(entry.get("reason", "") in response.json()["reasons"] for entry in service.log if "reason" in entry)


def test_full_disk_returns_an_error_and_the_service_continues(tiny_models: Path, tmp_path: Path) -> None:
    # Files are limited to 512 KiB: large images cannot be written, small ones can.
    limit = 512 * 1024
    noise = np.random.default_rng(0).integers(0, 255, (500, 500, 3), np.uint8)
    large = encode(noise, ".bmp")
    with service_process(
        tiny_models,
        tmp_path / "data",
        CPU,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    ) as service:
        service.wait_until(200)
        response = httpx.post(service.url + INSPECT, content=large, headers={"content-type": "image/bmp"})
        assert response.status_code == 503
        assert response.json()["type"].endswith("#store-unavailable")
        assert httpx.post(service.url + INSPECT, content=GOOD, headers=IMAGE).status_code == 201
        files = [path for path in (tmp_path / "data" / "inspections").rglob("*") if path.is_file()]
        assert sorted(path.suffix for path in files) == [".npy", ".png"], "no incomplete image is left"


def test_probe_responds_immediately_under_load(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", CPU) as service:
        service.wait_until(200)
        clients = Clients(service.url)
        clients.wait_for(CLIENTS)
        latencies = []
        with httpx.Client(base_url=service.url) as probe:
            for _ in range(100):
                started = time.perf_counter()
                assert probe.get("/health/live").status_code == 200
                latencies.append(time.perf_counter() - started)
        clients.stop()
    assert {response.status_code for response in clients.responses} == {201}
    # The documented figure, 50 ms at the 99th percentile, is measured by benchmarks/soak.py on an idle
    # machine. Here other processes may use the cores; a blocked event loop would exceed this limit by far.
    assert float(np.quantile(latencies, 0.9)) < 0.25


def test_second_process_on_the_same_port_reports_it_and_exits(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "one", CPU) as service:
        port = str(urlsplit(service.url).port)
        with (
            pytest.raises(RuntimeError, match=r"address already in use.*PLUMBLINE_PORT.*port not available"),
            service_process(tiny_models, tmp_path / "two", CPU | {"port": port}),
        ):
            pass
