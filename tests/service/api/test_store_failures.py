"""A store that fails: no verdict is returned that is not stored, and the message names the cause."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from service.store.errors import StoreUnavailable
from tests.problems import assert_problem
from tests.running_service import Serve


@pytest.mark.parametrize(("suffix", "links"), [(".png", ("image", "heatmap")), (".npy", ("map", "heatmap"))])
def test_removed_artefact_is_gone_but_its_record_stays(serve: Serve, suffix: str, links: tuple[str, str]) -> None:
    with serve() as service:
        stored = service.inspect().json()
        (file,) = service.settings.data.rglob(f"*{suffix}")
        file.unlink()
        for link in links:
            assert_problem(service.client.get(stored["links"][link]), 410, "artefact-gone")
        assert service.client.get(stored["links"]["self"]).json() == stored


@pytest.mark.parametrize("content", [b"", bytes(400), b"\x93NUMPY\x01\x00"])
def test_map_that_a_power_failure_left_incomplete_is_gone(serve: Serve, content: bytes) -> None:
    with serve() as service:
        stored = service.inspect().json()
        (file,) = service.settings.data.rglob("*.npy")
        file.write_bytes(content)
        assert_problem(service.client.get(stored["links"]["heatmap"]), 410, "artefact-gone")
        assert service.client.post(f"{stored['links']['self']}:replay").json()["outcome"] == "same"


def test_full_disk_returns_no_verdict(serve: Serve) -> None:
    with serve() as service:
        folder = service.settings.data / "inspections"
        folder.rmdir()
        folder.write_text("a file instead of the folder, so that nothing can be written below it")
        assert_problem(service.inspect(), 503, "store-unavailable")
        folder.unlink()
        assert service.client.get("/v1/inspections").json()["items"] == []
        assert service.inspect().status_code == 201, "recovers without a restart"


def test_database_failure_returns_no_verdict(serve: Serve) -> None:
    with serve() as service:
        with sqlite3.connect(service.settings.data / "plumbline.db") as database:
            database.execute("ALTER TABLE inspections RENAME TO elsewhere")
        database.close()
        assert_problem(service.inspect(), 503, "store-unavailable")
        assert_problem(service.client.get("/v1/inspections"), 503, "store-unavailable")


def test_full_disk_leaks_no_file_descriptor(serve: Serve) -> None:
    with serve() as service:
        assert service.inspect().status_code == 201
        write_image = service.store.files.write_image

        def no_space(*_: object) -> None:
            raise StoreUnavailable("no space left")

        before = len(list(Path("/proc/self/fd").iterdir()))
        object.__setattr__(service.store.files, "write_image", no_space)
        for _ in range(20):
            assert_problem(service.inspect(), 503, "store-unavailable")
        object.__setattr__(service.store.files, "write_image", write_image)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3
        assert service.inspect().status_code == 201


@pytest.mark.slow
def test_deleted_data_folder_is_named_by_every_read(serve: Serve) -> None:
    with serve() as service:
        stored = service.inspect().json()
        shutil.rmtree(service.settings.data)
        # Repeated, because the first failure closes the connection that was still open.
        for link in 2 * ("self", "image", "map", "heatmap"):
            problem = assert_problem(service.client.get(stored["links"][link]), 503, "store-unavailable")
            assert "the data folder $PLUMBLINE_DATA is missing" in problem["detail"]
        problem = assert_problem(service.client.get("/v1/inspections"), 503, "store-unavailable")
        assert "the data folder" in problem["detail"]


@pytest.mark.slow
def test_damaged_database_advises_a_backup_and_no_retry(serve: Serve) -> None:
    with serve() as service:
        stored = service.inspect().json()
        service.store.engine.dispose()
        with sqlite3.connect(service.settings.data / "plumbline.db") as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        with (service.settings.data / "plumbline.db").open("r+b") as file:
            file.seek(4096)
            file.write(b"garbage!" * 20_000)
        problem = assert_problem(service.client.get(stored["links"]["self"]), 503, "store-unavailable")
    assert "restore a backup" in problem["detail"]
    assert "retry_after" not in problem
