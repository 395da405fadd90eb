"""The image of an inspection is hashed and written while it is decoded."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.inspection.inspector import Inspector
from service.serving.image_storing import store_image
from service.store.errors import StoreUnavailable
from service.store.store import Store
from tests.running_service import GOOD, Serve

DATA = b"\xff\xd8\xff" + bytes(1000)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'data' / 'plumbline.db'}", tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def disk() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def images(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*.jpg")]


def test_image_is_hashed_and_written(store: Store, disk: ThreadPoolExecutor) -> None:
    with store_image(store, disk, DATA) as storing:
        storing.begin("image/jpeg")
        assert storing.sha256(DATA) == DIGEST
        storing.finish()
    assert images(store.data) == [DATA]


def test_hash_does_not_wait_for_a_free_thread(store: Store, disk: ThreadPoolExecutor) -> None:
    released = threading.Event()
    disk.submit(released.wait, 20)
    with store_image(store, disk, DATA) as storing:
        storing.begin("image/jpeg")
        assert storing.sha256(DATA) == DIGEST
        assert images(store.data) == [], "the thread is not free yet"
        released.set()
        storing.finish()
    assert images(store.data) == [DATA]


@pytest.mark.parametrize("error", [ValueError("not decoded"), StoreUnavailable("not committed")])
def test_image_of_a_failed_inspection_is_deleted(store: Store, disk: ThreadPoolExecutor, error: Exception) -> None:
    released = threading.Event()
    disk.submit(released.wait, 20)
    with pytest.raises(type(error)), store_image(store, disk, DATA) as storing:  # noqa: PT012 - fails within the block
        storing.begin("image/jpeg")
        released.set()
        raise error
    assert images(store.data) == []


def test_failure_before_the_image_is_written_is_reported(store: Store, disk: ThreadPoolExecutor) -> None:
    with pytest.raises(ValueError, match="header"), store_image(store, disk, DATA):
        raise ValueError("header")


def test_image_is_written_before_it_is_decoded_completely(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    read, is_synced, order = Inspector.read, threading.Event(), list[str]()
    sync = os.fsync

    def note_sync(descriptor: int) -> None:
        sync(descriptor)
        order.append("synced")
        is_synced.set()

    def read_late(self: Inspector, *args: Any) -> Any:
        assert is_synced.wait(20), "the image is written only after it was decoded"
        order.append("decoded")
        return read(self, *args)

    with serve() as service:
        monkeypatch.setattr(os, "fsync", note_sync)
        monkeypatch.setattr(Inspector, "read", read_late)
        response = service.inspect()
        assert response.status_code == 201
        assert order[:2] == ["synced", "decoded"]
        assert response.json()["image"]["sha256"] == hashlib.sha256(GOOD).hexdigest()


def test_image_that_cannot_be_decoded_leaves_no_file(serve: Serve) -> None:
    with serve() as service:
        assert service.inspect(GOOD[:-200]).status_code == 422
        assert not [path for path in (service.store.data / "inspections").rglob("*.png") if path.is_file()]
