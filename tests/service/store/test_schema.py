"""Schemas that a newer version has migrated: with which this version works, and with which it does not."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from shutil import copytree

import pytest
from sqlalchemy import Engine, NullPool, create_engine, func, select, text

from service.store import database
from service.store.database import _upgrade, make_engine, open_read_only_engine, require_usable_schema
from service.store.errors import StoreUnavailable
from service.store.models import InspectionRow
from service.store.probe import StoreProbe
from service.store.schema import FIRST_COMPATIBLE, MIGRATIONS, Schema, newest_revision
from service.store.store import Store, open_beside_service
from tests.databases import migrated_engine, pretend_newer
from tests.service.process.test_serving import wait_for
from tests.service.store.test_store import make_row

FUTURE = "9999_future"


def is_used_by(engine: Engine, name: str) -> bool:
    """Return whether there is a session with a name. The server ends a session some time after its client."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name"
    )
    with engine.connect() as connection:
        return bool(connection.execute(query, {"name": name}).scalar_one())


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


CONTRACTION = """
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = depends_on = None
kind = "contract"
deprecated_in = "0.1.0"
oldest_revision = "{before}"


def upgrade():
    op.drop_column("inspections", "traceparent")
"""


@pytest.mark.slow
def test_what_a_running_program_uses_is_not_removed(postgres_url: str, tmp_path: Path) -> None:
    migrations = copytree(MIGRATIONS, tmp_path / "migrations")
    contraction = CONTRACTION.format(revision=FUTURE, before=newest_revision())
    (migrations / "versions" / "9999.py").write_text(contraction)
    # A program of the last release names its sessions like this.
    older = create_engine(f"{postgres_url}?application_name=plumbline", poolclass=NullPool)
    engine, current = make_engine(postgres_url), make_engine(postgres_url)
    with current.connect(), older.connect():
        with pytest.raises(StoreUnavailable, match=rf"{FIRST_COMPATIBLE}\), which could not work.*Nothing was changed"):
            _upgrade(engine, migrations=migrations)
        assert schema_of(engine) == Schema(newest_revision(), FIRST_COMPATIBLE)
    with current.connect():
        wait_for(lambda: not is_used_by(engine, "plumbline"))
        _upgrade(engine, migrations=migrations)
    assert schema_of(engine) == Schema(FUTURE, newest_revision())
    for one in (engine, current):
        one.dispose()


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
