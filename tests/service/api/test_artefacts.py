"""Artefacts of stored inspections: deadline and cancellation of drawing, images that cannot be decoded, and HEAD."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.inspection.decoding import decoder
from service.inspection.runtime.threads import cpu_quota
from tests.problems import assert_problem
from tests.running_service import GOOD, RunningService, Serve

HEATMAP, IMAGE, CONVERTED, MAP = "/heatmap", "/image", "/image?format=png", "/map"


def stored_url(service: RunningService) -> str:
    return str(service.inspect().json()["links"]["self"])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def busy_cores(service: RunningService) -> Iterator[None]:
    """Occupy all threads that draw until the end of the block."""
    released = threading.Event()
    pool = service.services.artefacts._drawings.pool
    try:
        for _ in range(cpu_quota()):
            pool.submit(released.wait, 30)
        yield
    finally:
        released.set()


def documented(service: RunningService, path: str, method: str = "get") -> dict[str, str]:
    operation = service.app.openapi()["paths"][path][method]
    return {status: response["description"] for status, response in operation["responses"].items()}


def test_incomplete_map_is_gone_like_its_heatmap(serve: Serve) -> None:
    with serve() as service:
        url = stored_url(service)
        (file,) = service.settings.data.rglob("*.npy")
        complete = file.read_bytes()
        assert service.client.get(url + MAP).content == complete
        for damaged in (complete[:-4], complete[:40], bytes(len(complete)), b""):  # after a power failure
            file.write_bytes(damaged)
            for path in (MAP, HEATMAP):
                assert_problem(service.client.get(url + path), 410, "artefact-gone")
        assert service.client.head(url + MAP).status_code == 410


@pytest.mark.slow
@pytest.mark.parametrize("path", [HEATMAP, CONVERTED])
def test_drawing_that_gets_no_core_ends_at_the_deadline(serve: Serve, path: str) -> None:
    with serve(queue_deadline_s=0.3) as service:
        url = stored_url(service)
        with busy_cores(service):
            started = time.monotonic()
            problem = assert_problem(service.client.get(url + path), 503, "deadline-exceeded")
            assert time.monotonic() - started < 15
        assert problem["inspection_id"] == url.rpartition("/")[2]
        assert "verdict" not in problem["detail"]
        assert service.client.get(url + path).status_code == 200


def test_drawing_that_gets_no_turn_ends_at_the_deadline(serve: Serve) -> None:
    with serve(queue_deadline_s=0.3) as service:
        url = stored_url(service)
        admission = service.services.artefacts._drawings.admission
        limit, admission._max_running = admission._max_running, 0
        problem = assert_problem(service.client.get(url + HEATMAP), 503, "deadline-exceeded")
        assert "verdict" not in problem["detail"]
        admission._max_running = limit
        assert service.client.get(url + HEATMAP).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("path", [HEATMAP, CONVERTED])
def test_drawing_whose_decoding_takes_too_long_ends(serve: Serve, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    decode = decoder.decode

    def decode_slowly(*arguments: Any) -> decoder.UInt8Image:
        time.sleep(0.4)
        return decode(*arguments)

    with serve(queue_deadline_s=0.3) as service:
        url = stored_url(service)
        with monkeypatch.context() as patch:
            patch.setattr("service.deployment.stored_image.decoder.decode", decode_slowly)
            assert_problem(service.client.get(url + path), 503, "deadline-exceeded")
        assert service.client.get(url + path).status_code == 200


@pytest.mark.slow
def test_inspection_whose_heatmap_is_late_is_stored_and_named(serve: Serve) -> None:
    with serve(queue_deadline_s=0.3) as service:
        with busy_cores(service):
            problem = assert_problem(service.inspect(headers={"accept": "image/png"}), 503, "deadline-exceeded")
        assert service.client.get(f"/v1/inspections/{problem['inspection_id']}/heatmap").status_code == 200


def test_waiting_drawing_is_cancelled_when_the_client_disconnects(serve: Serve) -> None:
    with serve() as service:
        url = stored_url(service)
        admission = service.services.artefacts._drawings.admission
        with busy_cores(service):
            running, waiting = ([service.connect() for _ in range(count)] for count in (admission._max_running, 2))
            for number, connection in enumerate((*running, *waiting), 1):
                path = (HEATMAP, CONVERTED)[number % 2]
                connection.sendall(f"GET {url}{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                wait_for(partial(lambda expected: bool(admission.depth == expected), number))
            for connection in waiting:
                connection.close()
            wait_for(lambda: admission.depth == len(running))
        for connection in running:
            assert connection.recv(12) == b"HTTP/1.1 200"
            connection.close()


@pytest.mark.parametrize(
    ("content", "cause"), [(b"GIF89a" + bytes(100), "not-an-image"), (GOOD[:-30], "corrupt-image")]
)
def test_stored_image_that_cannot_be_decoded_is_a_documented_problem(serve: Serve, content: bytes, cause: str) -> None:
    with serve() as service:
        url = stored_url(service)
        (file,) = service.settings.data.rglob("*.png")
        file.write_bytes(content)
        requests = {
            ("get", HEATMAP): "/v1/inspections/{inspection_id}/heatmap",
            ("get", HEATMAP + "?legend=true"): "/v1/inspections/{inspection_id}/heatmap",
            ("get", CONVERTED): "/v1/inspections/{inspection_id}/image",
            ("post", ":replay"): "/v1/inspections/{inspection_id}:replay",
        }
        for (method, path), route in requests.items():
            problem = assert_problem(service.client.request(method, url + path), 409, "stored-image-unreadable")
            assert problem["cause"] == cause
            assert "stored-image-unreadable" in documented(service, route, method)["409"]
        assert service.client.get(url + IMAGE).content == content
        assert service.client.get(url).status_code == 200


def test_limits_of_drawing_are_documented(service: RunningService) -> None:
    for path in (HEATMAP, IMAGE):
        description = documented(service, "/v1/inspections/{inspection_id}" + path)["503"]
        assert "queue-full" in description
        assert "deadline-exceeded" in description


@pytest.mark.parametrize("path", [IMAGE, MAP, HEATMAP, CONVERTED])
def test_head_of_an_artefact_reads_no_file(serve: Serve, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    opened: list[Path] = []
    for name in ("open", "read_bytes"):
        method = getattr(Path, name)

        def record(path: Path, *arguments: Any, method: Any = method, **options: Any) -> Any:
            opened.append(path)
            return method(path, *arguments, **options)

        monkeypatch.setattr(Path, name, record)
    with serve() as service:
        url = stored_url(service) + path
        get = service.client.get(url)
        files = {file for file in service.settings.data.rglob("*.*") if file.suffix in {".png", ".npy"}}
        assert files & set(opened), "GET reads"
        opened.clear()
        head = service.client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert not files & set(opened)
        ignored = {"date", "x-request-id"} | ({"content-length"} if path in {HEATMAP, CONVERTED} else set())
        for name in get.headers.keys() - ignored:
            assert head.headers[name] == get.headers[name]
        assert head.headers.get("content-length", get.headers["content-length"]) == get.headers["content-length"]
        for file in files:
            file.unlink()
        assert service.client.head(url).status_code == 410
