"""Archives of images never fill the disk of the data folder."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

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
