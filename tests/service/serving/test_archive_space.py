"""Archives of images never fill the disk of the data folder, and few of their directories are read at a time."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from service.errors import DeadlineExceeded
from service.serving.archive_space import ArchiveSpace
from service.store.errors import StoreUnavailable
from tests.proposals import zipped
from tests.running_service import GOOD, Serve

Usage = namedtuple("Usage", ["total", "used", "free"])


def limit_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2 * free, free, free))


def test_archives_share_the_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_disk(monkeypatch, 1000)
    space = ArchiveSpace(tmp_path, reserve_bytes=100)
    with space.reserve(600):
        with space.reserve(300):
            pass
        with pytest.raises(StoreUnavailable, match="up to 301 bytes does not fit"), space.reserve(301):
            pass
    with space.reserve(900):
        pass


def test_archive_that_does_not_fit_is_refused_before_it_is_received(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(min_data_free_bytes=0) as service:
        archive = zipped({"a.png": GOOD})
        limit_disk(monkeypatch, len(archive) - 1)
        response = service.client.post(
            "/v1/products/widget/inspections:batch", content=archive, headers={"content-type": "application/zip"}
        )
        assert (response.status_code, response.json()["type"]) == (503, "/problems#store-unavailable")
        assert "does not fit" in response.json()["detail"]
        monkeypatch.undo()
        assert service.client.post(
            "/v1/products/widget/inspections:batch", content=archive, headers={"content-type": "application/zip"}
        ).is_success


def test_few_directories_are_read_at_a_time(tmp_path: Path) -> None:
    space = ArchiveSpace(tmp_path, reserve_bytes=0)
    entered, released = threading.Semaphore(0), threading.Event()

    def read() -> str:
        entered.release()
        assert released.wait(10)
        return threading.current_thread().name

    async def run() -> list[str]:
        first = [asyncio.create_task(space.read_directory(read, 10)) for _ in range(2)]
        for _ in first:
            assert await asyncio.to_thread(entered.acquire, timeout=10)
        with pytest.raises(DeadlineExceeded):
            await space.read_directory(read, 0.05)
        third = asyncio.create_task(space.read_directory(read, 10))
        released.set()
        return list(await asyncio.gather(*first, third))

    names = asyncio.run(run())
    assert len(names) == 3
    assert threading.current_thread().name not in names


def test_failure_of_a_directory_frees_its_place(tmp_path: Path) -> None:
    async def run() -> None:
        space = ArchiveSpace(tmp_path, reserve_bytes=0)
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await space.read_directory(lambda: 1 // 0, 0.05)

    asyncio.run(run())
