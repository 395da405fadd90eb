"""Schemas that a newer version has migrated: with which this version works, and with which it does not."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text

from service.store import database
from service.store.database import _upgrade, make_engine, open_read_only_engine, require_usable_schema
from service.store.errors import StoreUnavailable
from service.store.models import InspectionRow
from service.store.probe import StoreProbe
from service.store.schema import FIRST_COMPATIBLE, Schema, newest_revision
from service.store.store import Store, open_beside_service
from tests.databases import migrated_engine, pretend_newer
from tests.service.store.test_store import make_row

FUTURE = "9999_future"


def schema_of(engine: Engine) -> Schema:
    with engine.connect() as connection:
        return Schema.of(connection)


def test_migrated_database_states_which_programs_can_work_with_it(database_url: str) -> None:
    engine = migrated_engine(database_url)
    assert schema_of(engine) == Schema(newest_revision(), FIRST_COMPATIBLE)
    engine.dispose()


def test_schema_of_a_newer_version_is_used_if_it_only_adds(database_url: str, tmp_path: Path) -> None:
    migrated_engine(database_url).dispose()
    pretend_newer(database_url, newest_revision())
    store = Store.open(database_url, tmp_path / "data")
    store.writer.write(make_row())
    assert StoreProbe(store, 0)() == ()
    assert require_usable_schema(store.engine) == Schema(FUTURE, newest_revision()), "nothing was changed"
    store.close()
    with open_beside_service(database_url, tmp_path / "data") as engine, engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(InspectionRow)) == 1
    open_read_only_engine(database_url).dispose()


def test_schema_of_a_newer_version_is_refused_if_it_removed_something(database_url: str, tmp_path: Path) -> None:
    migrated_engine(database_url).dispose()
    pretend_newer(database_url, FUTURE)
    for opened in (migrated_engine, open_read_only_engine, lambda url: Store.open(url, tmp_path / "data")):
        with pytest.raises(StoreUnavailable, match=r"9999_future.*newer version.*restore a backup"):
            opened(database_url)
    engine = make_engine(database_url)
    assert schema_of(engine) == Schema(FUTURE, FUTURE)
    engine.dispose()


def test_newer_schema_that_states_nothing_is_refused(database_url: str) -> None:
    engine = migrated_engine(database_url)
    pretend_newer(database_url, FUTURE)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE schema_compatibility"))
    engine.dispose()
    with pytest.raises(StoreUnavailable, match="cannot work with its tables"):
        open_read_only_engine(database_url)


@pytest.mark.slow
def test_running_process_refuses_images_once_its_schema_is_gone(postgres_url: str, tmp_path: Path) -> None:
    store = Store.open(postgres_url, tmp_path / "data")
    probe = StoreProbe(store, 0)
    pretend_newer(postgres_url, newest_revision())
    assert probe() == ()
    store.require_writable()
    pretend_newer(postgres_url, FUTURE)
    (problem,) = probe()
    assert f"needs one that has the migration {FUTURE}. Stop this process" in problem
    with pytest.raises(StoreUnavailable, match="start the version that migrated"):
        store.require_writable()
    with pytest.raises(StoreUnavailable, match=FUTURE):
        store.writer.write(make_row())
    pretend_newer(postgres_url, newest_revision())
    assert probe() == ()
    store.writer.write(make_row())
    with store.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(InspectionRow)) == 1
    store.close()


@pytest.mark.slow
def test_statements_of_other_processes_wait_only_briefly_for_a_migration_that_waits(empty_postgres_url: str) -> None:
    engine = make_engine(empty_postgres_url)
    _upgrade(engine, "0001")
    migrated: list[Engine] = []
    durations = []
    with engine.connect() as long_query:
        long_query.execute(text("SELECT * FROM inspections"))  # an open transaction, as during a report
        thread = threading.Thread(target=lambda: migrated.append(migrated_engine(empty_postgres_url)))
        thread.start()
        ended = time.monotonic() + 3
        while time.monotonic() < ended:
            started = time.monotonic()
            with engine.begin() as inspecting:
                inspecting.execute(text("DELETE FROM inspections"))
            durations.append(time.monotonic() - started)
            time.sleep(0.02)
        assert migrated == []
    thread.join(20)
    assert 0.1 < max(durations) < 3, "the migration waits, gives way, and tries again"
    assert schema_of(engine).revision == newest_revision()
    for one in (engine, *migrated):
        one.dispose()


@pytest.mark.slow
def test_migration_ends_if_its_tables_stay_locked(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MIGRATION_TIMEOUT_S", 0.1)
    engine = make_engine(empty_postgres_url)
    _upgrade(engine, "0001")
    with engine.connect() as long_query:
        long_query.execute(text("SELECT * FROM inspections"))
        with pytest.raises(StoreUnavailable, match="locked by another transaction"):
            migrated_engine(empty_postgres_url)
    assert schema_of(engine).revision == "0001"
    engine.dispose()
