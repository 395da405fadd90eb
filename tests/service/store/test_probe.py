"""Probes of the store: a full, read-only or hanging disk, and a locked or corrupt database."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.store.health import StoreHealth
from service.store.probe import StoreProbe
from service.store.sqlite import check_file
from service.store.store import Store
from tests.service.store.test_store import make_row

MIB = 2**20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'data' / 'plumbline.db'}", tmp_path / "data")
    yield opened
    opened.close()


def test_probe_reports_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert StoreProbe(store, 0)() == ()
    usage = shutil.disk_usage(store.data)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=1000 * MIB, free=9 * MIB))
    (problem,) = StoreProbe(store, 10 * MIB)()
    assert "is full: 9 MiB are free, at least 10 MiB" in problem
    assert StoreProbe(store, 2**40)() != ()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=20 * MIB, free=9 * MIB))
    assert StoreProbe(store, 2**40)() == (), "a twentieth of a small file system is enough"


def test_probe_reports_a_disk_that_refuses_writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    probe = StoreProbe(store, 0)
    assert probe() == ()
    monkeypatch.setattr("service.store.artefacts.local.os.write", fail)
    assert probe() == (), "the disk is written every ten seconds only"
    (problem,) = probe(after_failure=True)
    assert "Disk quota exceeded" in problem
    monkeypatch.undo()
    assert probe() == (), "it recovers at once"
    assert [path.name for path in (store.data / "inspections").iterdir()] == []


@pytest.mark.slow
def test_probe_reports_a_locked_database(store: Store) -> None:
    probe = StoreProbe(store, 0)
    other = sqlite3.connect(store.data / "plumbline.db")
    other.execute("BEGIN IMMEDIATE")
    assert probe() == (), "a commit of this process may hold the lock for a moment"
    (problem,) = probe()
    assert "locked" in problem
    other.rollback()
    other.close()
    assert probe() == ()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncate", "overwrite", "header"])
def test_probe_reports_a_corrupt_database(store: Store, damage: str) -> None:
    for _ in range(200):
        store.writer.write(make_row())
    probe = StoreProbe(store, 0)
    assert probe() == ()
    path = store.data / "plumbline.db"
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    # In a process of its own: closing the file here would release the locks that SQLite holds.
    writes = {
        "truncate": "os.truncate(path, 4096 * 3)",
        "overwrite": "f = open(path, 'r+b'); f.seek(4096); f.write(os.urandom(size - 4096)); f.close()",
        "header": "f = open(path, 'r+b'); f.write(b'garbage' * 1000); f.close()",
    }
    script = f"import os; path = {str(path)!r}; size = os.path.getsize(path); {writes[damage]}"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert probe(after_failure=True) != ()
    assert probe() != ()


@pytest.mark.slow
def test_structure_check_is_bounded(store: Store) -> None:
    started = time.monotonic()
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) "
            "INSERT INTO bundle_choices (product, role, created_at, author, reason) "
            "SELECT hex(randomblob(16)), 'active', '2026-01-01', 'a', hex(randomblob(32)) FROM n"
        )
    store.close()
    started = time.monotonic()
    assert check_file(store.data / "plumbline.db", 0.001) is None
    assert time.monotonic() - started < 1


@pytest.mark.slow
def test_health_never_waits_for_a_disk_that_hangs() -> None:
    released, hanging = threading.Event(), threading.Event()
    results: list[tuple[str, ...]] = [("Broken.",), ()]

    def probe(*, after_failure: bool = False) -> tuple[str, ...]:
        if results:
            return results.pop(0)
        hanging.set()
        released.wait(20)
        return ()

    health = StoreHealth(probe, interval_s=0.01, stale_s=0.2)
    health.start()
    assert health.problems == ("Broken.",)
    assert hanging.wait(10)
    time.sleep(0.3)
    started = time.perf_counter()
    (problem,) = health.problems
    assert time.perf_counter() - started < 0.01
    assert "not responded" in problem
    released.set()
    health.close()


def test_health_survives_an_unexpected_error() -> None:
    calls: list[bool] = []

    def probe(*, after_failure: bool = False) -> tuple[str, ...]:
        calls.append(after_failure)
        if len(calls) == 1:
            raise RuntimeError("unexpected")
        return ()

    health = StoreHealth(probe, interval_s=30)
    health.start()
    assert "unexpected" in health.problems[0]
    health.report_failure()
    deadline = time.monotonic() + 10
    while health.problems and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (health.problems, calls) == ((), [False, True])
    health.close()
