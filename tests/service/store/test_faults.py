"""The store when its files are deleted, the disk fails, another process uses it, or the schema is another version."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from service.store.artefacts.local import LocalFiles, write_atomically
from service.store.database import _upgrade, open_read_only_engine
from service.store.errors import StoreUnavailable
from service.store.ids import new_id
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import get_inspection, list_inspections
from service.store.lock import FileLock
from service.store.probe import StoreProbe
from service.store.store import Store
from tests.service.store.test_store import make_row


def open_store(data: Path, **options: Any) -> Store:
    return Store.open(f"sqlite:///{data / 'plumbline.db'}", data, **options)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "data")
    yield opened
    opened.close()


def remove_database(data: Path) -> None:
    (data / "plumbline.db").unlink()


def remove_log(data: Path) -> None:
    (data / "plumbline.db-wal").unlink()


def replace_database(data: Path) -> None:
    with sqlite3.connect(data / "other.db") as other:
        other.execute("CREATE TABLE inspections (id)")
    other.close()
    (data / "other.db").rename(data / "plumbline.db")


def replace_folder(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()


LOSSES: list[Callable[[Path], Any]] = [
    shutil.rmtree,
    replace_folder,
    remove_database,
    replace_database,
    remove_log,
    lambda data: (data / "plumbline.lock").unlink(),
    lambda data: data.rename(data.with_name("moved")),
]


@pytest.mark.parametrize("lose", LOSSES)
def test_lost_files_are_noticed_before_the_next_commit(store: Store, lose: Callable[[Path], Any]) -> None:
    store.writer.write(make_row())
    probe = StoreProbe(store, 0)
    assert probe() == ()
    lose(store.data)
    with pytest.raises(StoreUnavailable, match="since the service was started"):
        store.writer.write(make_row())
    with pytest.raises(StoreUnavailable, match="since the service was started"):
        store.require_writable()
    assert "since the service was started" in probe()[0]
    assert not (store.data / "inspections").exists() or lose not in LOSSES[:2], "a lost folder is not created anew"


def test_file_deleted_during_the_commit_is_noticed_after_it(store: Store) -> None:
    checks = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 2:
            remove_database(store.data)
        type(store.guard).check(store.guard)

    assert store.database is not None
    connection = store.database.connect()
    connection.guard = type("Guard", (), {"check": staticmethod(check)})()  # type: ignore[attr-defined]
    connection.execute("INSERT INTO recipes VALUES (1, 'p', 1, '2026-01-01', 'a', 'r', 'd', '{}')")
    with pytest.raises(StoreUnavailable, match="missing"):
        connection.commit()
    connection.close()


def test_database_that_is_put_back_is_used_again(store: Store) -> None:
    store.writer.write(make_row())
    store.data.rename(store.data.with_name("moved"))
    with pytest.raises(StoreUnavailable):
        store.writer.write(make_row())
    store.data.with_name("moved").rename(store.data)
    store.writer.write(make_row())
    assert len(list_inspections(store.engine, InspectionFilter())) == 2


def test_second_store_on_the_same_folder_or_database_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=f"in use by another Plumbline process .pid {os.getpid()} on .* started"):
        open_store(store.data)
    with pytest.raises(StoreUnavailable, match=r"the database .* is in use"):
        Store.open(f"sqlite:///{store.data / 'plumbline.db'}", tmp_path / "other")
    with pytest.raises(StoreUnavailable, match=r"the data folder .* is in use"):
        Store.open(f"sqlite:///{tmp_path / 'other.db'}", store.data)
    (tmp_path / "link").symlink_to(store.data)
    with pytest.raises(StoreUnavailable, match="in use"):
        open_store(tmp_path / "link")
    store.close()
    open_store(store.data).close()


def test_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from service.store.lock import FileLock; "
        f"lock = FileLock(Path({str(tmp_path / 'x.lock')!r}), 'x'); print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(StoreUnavailable, match=f"pid {process.pid}"):
        FileLock(tmp_path / "x.lock", "x")
    process.kill()
    process.wait()
    process.stdout.close()
    lock = FileLock(tmp_path / "x.lock", "x")
    assert lock.is_held
    lock.release()


def test_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "x.lock", "x")
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    lock.release()
    try:
        deadline = time.monotonic() + 10
        while True:  # the child closes its copy as its first action
            try:
                FileLock(tmp_path / "x.lock", "x").release()
            except StoreUnavailable:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            else:
                break
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in (folder, *folder.rglob("*"))
    }


def test_read_only_engine_changes_nothing(store: Store) -> None:
    row = make_row()
    store.writer.write(row)
    for is_running in (True, False):
        if not is_running:
            store.close()
        before = listing(store.data)
        engine = open_read_only_engine(str(store.engine.url))
        assert get_inspection(engine, UUID(row.id)).score == row.score
        with pytest.raises(Exception, match="readonly"), engine.begin() as connection:
            connection.execute(text("DELETE FROM inspections"))
        engine.dispose()
        after = listing(store.data)
        if is_running:  # the index of the log is shared memory, which readers mark
            before.pop("plumbline.db-shm"), after.pop("plumbline.db-shm")
        assert after == before


def test_read_only_engine_does_not_migrate(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'plumbline.db'}"
    engine = create_engine(url)
    _upgrade(engine, "0005_bundles")
    engine.dispose()
    before = listing(tmp_path)
    with pytest.raises(StoreUnavailable, match=r"0005_bundles.*plumbline serve") as raised:
        open_read_only_engine(url)
    assert raised.value.is_outdated
    assert listing(tmp_path) == before


def test_read_only_engine_never_creates_a_database(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        open_read_only_engine(f"sqlite:///{tmp_path / 'no' / 'plumbline.db'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operation", ["open", "write", "rename", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    owner = Path if operation == "rename" else os
    monkeypatch.setattr(owner, operation, fail)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StoreUnavailable, match=os.strerror(number)):
        write_atomically(tmp_path / "x.png", b"png").sync()
    monkeypatch.undo()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    # A file that is complete but not synced is removed by the caller, which knows whether the verdict stands.
    assert [path.name for path in tmp_path.iterdir()] == (["x.png"] if operation == "fsync" else [])


def test_partial_file_that_cannot_be_removed_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> Callable[..., None]:
        def raise_error(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        return raise_error

    monkeypatch.setattr(os, "write", fail(errno.ENOSPC))
    monkeypatch.setattr(Path, "unlink", fail(errno.EIO))
    with pytest.raises(StoreUnavailable, match="No space left"):
        write_atomically(tmp_path / "x.png", b"png")


def test_day_folder_removed_at_the_same_time_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = LocalFiles(tmp_path / "inspections")
    create = Path.mkdir
    removed: list[Path] = []

    def create_and_remove(path: Path, *args: Any, **options: Any) -> None:
        create(path, *args, **options)
        if len(path.relative_to(files.root).parts) == 3 and not removed:
            removed.append(path)
            path.rmdir()  # as retention does

    monkeypatch.setattr(Path, "mkdir", create_and_remove)
    files.write_map(new_id(), np.zeros((1, 1), np.float32)).sync()
    assert removed != []


def test_store_that_cannot_be_written_is_opened_for_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, row = tmp_path / "data", make_row()
    store = open_store(data)
    store.writer.write(row)
    store.close()

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("service.store.artefacts.local.os.write", fail)
    store = open_store(data)
    assert store.read_only_reason is not None
    assert get_inspection(store.engine, UUID(row.id)).score == row.score
    with pytest.raises(StoreUnavailable, match="No space left"):
        store.require_writable()
    with pytest.raises(StoreUnavailable, match="read-only"):
        store.writer.write(make_row())
    probe = StoreProbe(store, 0)
    (problem,) = probe()
    assert "No space left" in problem
    with pytest.raises(StoreUnavailable, match="in use"):
        open_store(data)
    monkeypatch.undo()
    assert probe() == ()
    store.require_writable()
    store.writer.write(make_row())
    remove_database(data)
    with pytest.raises(StoreUnavailable, match="missing"):
        store.writer.write(make_row())
    store.close()


def test_new_store_on_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("service.store.artefacts.local.os.write", fail)
    with pytest.raises(StoreUnavailable, match="No space left"):
        open_store(tmp_path / "data")
    monkeypatch.undo()
    open_store(tmp_path / "data").close()


def test_store_is_locked_when_a_read_only_disk_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(tmp_path / "data").close()
    for lock in (tmp_path / "data").glob("*.lock"):
        lock.unlink()  # as if the database came from a version without locks

    def refuse(*_: object) -> None:
        raise StoreUnavailable("read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr("service.store.store.probe_write", refuse)
        patched.setattr("service.store.lock._open", lambda _path: None)
        store = open_store(tmp_path / "data")
    try:
        assert store.read_only_reason is not None
        store.recover()
        with pytest.raises(StoreUnavailable, match="another Plumbline process"):
            open_store(tmp_path / "data")
    finally:
        store.close()
