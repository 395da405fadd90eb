"""What was answered stays: failed writes, a changed recipe, and a clock that is set."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from service.store.artefacts.local import LocalFiles
from tests.bundles import part
from tests.running_service import GOOD, RunningService, Serve, encode

SIGNATURE = {"author": "a", "reason": "b"}
RECIPE = "/v1/products/widget/recipe"
BLACK = encode(part(brightness=0))


def artefacts(service: RunningService) -> list[str]:
    """Return the suffixes of all stored and half-written files, without those of the probe of the disk."""
    files = [path for path in (service.store.data / "inspections").rglob("*") if path.is_file()]
    return sorted(path.suffix for path in files if not path.name.startswith(".write-probe."))


def wait_ready(service: RunningService, status_code: int, timeout_s: float = 10) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        response = service.client.get("/health/ready")
        if response.status_code == status_code:
            body: dict[str, Any] = response.json()
            return body
        assert time.monotonic() < deadline, response.text
        time.sleep(0.02)


def metric(service: RunningService, name: str) -> float:
    match = re.search(rf"^{re.escape(name)} (\S+)$", service.client.get("/metrics").text, re.MULTILINE)
    assert match is not None, name
    return float(match[1])


def is_refused(response: httpx.Response) -> bool:
    return response.status_code == 503 and response.json()["type"].endswith("#store-unavailable")


@pytest.mark.slow
@pytest.mark.parametrize(
    "lose",
    [shutil.rmtree, lambda data: (data / "plumbline.db").unlink(), lambda data: data.rename(data.parent / "old")],
)
def test_lost_store_refuses_and_is_not_ready(serve: Serve, lose: Callable[[Path], Any]) -> None:
    with serve() as service:
        assert service.inspect().status_code == 201
        lose(service.settings.data)
        for _ in range(3):
            assert is_refused(service.inspect())
        body = wait_ready(service, 503)
        assert body["status"] == "not-ready"
        assert "since the service was started" in body["reasons"][0]
        assert is_refused(service.client.get("/v1/inspections")), "no record is read from a deleted file"
        started = time.perf_counter()
        for _ in range(20):
            service.client.get("/health/ready")
        assert (time.perf_counter() - started) / 20 < 0.05


@pytest.mark.slow
def test_not_ready_is_reported_without_any_request(serve: Serve) -> None:
    with serve() as service:
        (service.settings.data / "plumbline.db").unlink()
        assert "the database" in wait_ready(service, 503)["reasons"][0].lower()


@pytest.mark.slow
def test_full_disk_is_not_ready(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    with serve(min_data_free_bytes=2**30) as service:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=2**40, free=2**29))
        assert "is full" in wait_ready(service, 503)["reasons"][0]
        monkeypatch.undo()
        wait_ready(service, 200)


@pytest.mark.slow
@pytest.mark.parametrize("image", [GOOD, BLACK], ids=["judged", "rejected"])
@pytest.mark.parametrize("operation", ["open", "write", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_failed_write_of_an_image_leaves_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, image: bytes, operation: str, number: int
) -> None:
    original = getattr(os, operation)

    def fail(first: Any, *args: Any, **options: Any) -> Any:
        if operation != "open" or str(first).endswith(".png") or ".png." in str(first):
            raise OSError(number, os.strerror(number))
        return original(first, *args, **options)

    with serve() as service:
        service.client.put(RECIPE, json=SIGNATURE | {"quality": {"brightness_min": 20}})
        assert service.inspect(image).status_code == 201
        before = artefacts(service)
        with monkeypatch.context() as patch:
            patch.setattr(os, operation, fail)
            assert is_refused(service.inspect(image))
        assert artefacts(service) == before
        assert len(service.client.get("/v1/inspections").json()["items"]) == 1


def test_failed_sync_of_a_map_is_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.fsync

    def fail(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".npy":
            raise OSError(errno.EIO, "Input/output error")
        original(descriptor)

    with serve() as service:
        assert metric(service, "inspection_map_sync_failures_total") == 0
        monkeypatch.setattr(os, "fsync", fail)
        assert service.inspect().status_code == 201, "the map can be computed again"
        deadline = time.monotonic() + 10
        while metric(service, "inspection_map_sync_failures_total") != 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def is_map(descriptor: int) -> bool:
    try:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
    except FileNotFoundError:  # closed by another thread
        return False
    return target.name.removesuffix(" (deleted)").endswith(".npy")


def test_map_is_synced_after_the_verdict_is_returned(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    original, is_returned, is_synced = os.fsync, threading.Event(), threading.Event()

    def sync(descriptor: int) -> None:
        if is_map(descriptor):
            assert is_returned.wait(10), "the response waits for the map"
            is_synced.set()
        original(descriptor)

    with serve() as service:
        monkeypatch.setattr(os, "fsync", sync)
        assert service.inspect().status_code == 201
        is_returned.set()
        assert is_synced.wait(10)


def test_inspection_that_cannot_be_committed_leaves_no_open_file(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as service:
        with monkeypatch.context() as patch:
            patch.setattr(service.store.writer, "write", _fail)
            assert is_refused(service.inspect())
        assert not any(is_map(int(path.name)) for path in Path("/proc/self/fd").iterdir())
        assert artefacts(service) == []


def test_inspection_takes_no_thread_of_the_frameworks_pool(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    original = anyio.to_thread.run_sync

    async def run_sync(function: Any, *args: Any, **options: Any) -> Any:
        taken.append(function)
        return await original(function, *args, **options)

    with serve() as service:
        service.app.openapi()  # otherwise the first query makes it in the pool
        monkeypatch.setattr(anyio.to_thread, "run_sync", run_sync)
        assert service.inspect(params={"part_id": "4711"}).status_code == 201
        assert taken == []
        assert service.client.get("/v1/inspections").status_code == 200
        assert taken != [], "the pool is observed"


def test_retry_after_a_failed_store_is_no_frozen_camera(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as service:
        service.client.put(RECIPE, json=SIGNATURE | {"quality": {"frozen_after": 3}})
        with monkeypatch.context() as patch:
            patch.setattr(LocalFiles, "write_image", _fail)
            for _ in range(5):
                assert is_refused(service.inspect())
        assert [service.inspect().json()["decision"] for _ in range(3)] == ["pass", "pass", "invalid"]


def _fail(*_: object, **__: object) -> None:
    from service.store.errors import StoreUnavailable

    raise StoreUnavailable("the disk is full")


def test_layout_of_a_buffer_follows_the_recipe_that_judges_it(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as service:
        changed = {"pixels": {"pixel_format": "Mono8", "width": 64, "height": 64}}
        assert service.client.put(RECIPE, json=SIGNATURE | changed).status_code == 200
        received, released = threading.Event(), threading.Event()
        lease = service.registry.lease

        def wait_and_lease(product: str, timeout_s: float, *, is_hit: bool = True) -> Any:
            received.set()
            assert released.wait(20)
            return lease(product, timeout_s, is_hit=is_hit)

        monkeypatch.setattr(service.registry, "lease", wait_and_lease)
        responses: list[httpx.Response] = []
        buffer = bytes(range(256)) * 16 * 3
        sender = threading.Thread(
            target=lambda: responses.append(service.inspect(buffer, headers={"x-stride": str(64 * 3)}))
        )
        sender.start()
        assert received.wait(20)
        changed = {"pixels": {"pixel_format": "RGB8", "width": 64, "height": 64}}
        revision = service.client.put(RECIPE, json=SIGNATURE | changed).json()["revision"]
        released.set()
        sender.join()
        (response,) = responses
        assert response.status_code == 201, response.text
        assert response.json()["recipe_revision"] == revision
        stored = service.store.data / "inspections"
        assert stored.exists()
        image = service.client.get(response.json()["links"]["image"])
        assert image.headers["x-pixel-format"] == "RGB8"


def test_times_are_those_of_the_clock_after_it_was_set(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    days = 400 * 86_400
    with serve() as service:
        clock = service.services.inspections._work._clock
        first = service.inspect().json()
        monkeypatch.setattr(clock, "_wall_s", lambda: time.time() + days)
        monkeypatch.setattr("service.store.ids.uuid_utils.uuid7", _future_ids())
        future = service.inspect().json()
        monkeypatch.setattr(clock, "_wall_s", time.time)
        last = service.inspect().json()
        now = datetime.now(UTC)
        assert abs(datetime.fromisoformat(last["created_at"]) - now) < timedelta(minutes=1)
        assert abs(datetime.fromisoformat(future["created_at"]) - now) > timedelta(days=399)
        assert first["id"] < future["id"] < last["id"], "ids keep the order of creation"
        for item in (first, future, last):
            assert service.client.get(item["links"]["image"]).status_code == 200
            assert service.client.get(item["links"]["map"]).status_code == 200
        assert metric(service, 'inspection_clock_jumps_total{direction="forwards"}') == 1
        assert metric(service, 'inspection_clock_jumps_total{direction="backwards"}') == 1


def _future_ids() -> Callable[[], Any]:
    """Return ids as the library makes them after the clock was 400 days ahead: they never decrease."""
    import uuid_utils

    real, ahead = uuid_utils.uuid7, 400 * 86_400_000

    class Id:
        def __init__(self) -> None:
            self.int = real().int + (ahead << 80)

    return Id
