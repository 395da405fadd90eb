"""What is particular to PostgreSQL: sessions, timeouts, refused servers, and reasons without the driver's words."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from service.bundle.bundle import Bundle
from service.deployment.recipes import recipe_in_force
from service.recipes.recipe import Recipe
from service.store import postgres as postgres_module
from service.store.database import make_engine, open_read_only_engine
from service.store.errors import RecipeConflict, StoreUnavailable
from service.store.inspections import get_inspection
from service.store.options import StoreOptions
from service.store.postgres import DatabaseOptions
from service.store.probe import StoreProbe
from service.store.recipes import append_recipe, recipe_history
from service.store.schema import newest_revision
from service.store.session import reading, writing
from service.store.store import Store
from tests.command_line import run
from tests.databases import migrated_engine
from tests.postgres import PASSWORD, PostgresServer
from tests.service.store.test_store import ADA, make_row

pytestmark = pytest.mark.slow

QUICK = DatabaseOptions(pool_size=2, connect_timeout_s=2, statement_timeout_s=0.3, lock_timeout_s=0.2)
# Words of the driver, of the server and of SQLAlchemy that users must not see.
FOREIGN = ("psycopg", "FATAL", "ERROR", "LINE 1", "SELECT", "sqlalche", "Background on", PASSWORD, "conninfo")


@pytest.fixture
def store(postgres_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(postgres_url, tmp_path / "data", StoreOptions(QUICK))
    yield opened
    opened.close()


def in_plain_words(error: StoreUnavailable) -> bool:
    return not any(word in error.detail for word in FOREIGN)


def test_session_does_not_depend_on_the_defaults_of_the_server(store: Store) -> None:
    names = ("TimeZone", "statement_timeout", "lock_timeout", "jit", "synchronous_commit", "application_name")
    with store.engine.connect() as connection:  # after a roll-back by the pool, too
        connection.rollback()
        found = {name: connection.scalar(text(f"SHOW {name}")) for name in names}
    assert found == {
        "TimeZone": "UTC",
        "statement_timeout": "300ms",
        "lock_timeout": "200ms",
        "jit": "off",
        "synchronous_commit": "on",  # the server of the tests has it off
        "application_name": f"plumbline {newest_revision()}",
    }


def test_stricter_commit_of_the_database_is_kept(postgres: PostgresServer, postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit = remote_apply")
    engine = make_engine(postgres_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "remote_apply"
    engine.dispose()


@pytest.mark.parametrize(
    "moment", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]
)
def test_times_at_the_ends_of_the_calendar_are_kept(store: Store, moment: datetime) -> None:
    row = make_row(captured_at=moment)
    store.writer.write(row)
    assert get_inspection(store.engine, UUID(row.id)).captured_at == row.captured_at


def test_statement_that_takes_too_long_is_ended(store: Store) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="STATEMENT_TIMEOUT_S") as raised, reading(store.engine) as session:
        session.execute(text("SELECT pg_sleep(20)"))
    assert time.monotonic() - started < 10
    assert in_plain_words(raised.value)


def test_statement_does_not_wait_long_for_a_lock(store: Store) -> None:
    with store.engine.connect() as blocker:
        blocker.execute(text("LOCK TABLE inspections IN EXCLUSIVE MODE"))
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="locked by another transaction") as raised:
            store.writer.write(make_row())
        assert time.monotonic() - started < 5
        assert in_plain_words(raised.value)
        (problem,) = StoreProbe(store, 0)(after_failure=True)
        assert "locked" in problem or "longer" in problem or "connections are in use" in problem


def test_thread_does_not_wait_long_for_a_connection(store: Store) -> None:
    in_use = "connections are in use"
    with store.engine.connect(), store.engine.connect(), pytest.raises(StoreUnavailable, match=in_use):
        store.writer.write(make_row())


def test_value_that_does_not_fit_fails_alone(store: Store) -> None:
    for changes in ({"station": "x" * 129}, {"station": "\0"}, {"batch_size": 2**40}):
        with pytest.raises(StoreUnavailable, match="does not fit") as raised:
            store.writer.write(make_row(**changes))
        assert in_plain_words(raised.value)
    store.writer.write(make_row(station="x" * 128, part_id="\U0001f9ff" * 128))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "wrong"}, "refuses the user or the password"),
        ({"database": "missing"}, "no such database"),
        ({"port": 1}, "no server listens there"),
        ({"host": "name.invalid"}, "cannot be resolved"),
    ],
)
def test_refused_connection_has_a_reason_without_secrets(
    postgres: PostgresServer, postgres_url: str, change: dict[str, object], words: str
) -> None:
    url = make_engine(postgres_url).url.set(**change).render_as_string(hide_password=False)  # type: ignore[arg-type]
    for opened in (migrated_engine, open_read_only_engine):
        with pytest.raises(StoreUnavailable, match=words) as raised:
            opened(url)
        assert in_plain_words(raised.value)
        assert "wrong" not in raised.value.detail


def test_failure_while_a_session_is_configured_has_a_reason(postgres_url: str) -> None:
    engine = make_engine(postgres_url, options=DatabaseOptions(statement_timeout_s=-1))
    with pytest.raises(StoreUnavailable, match="does not fit") as raised, reading(engine) as session:
        session.connection()
    assert in_plain_words(raised.value)


def test_password_in_the_query_of_the_url_is_not_shown() -> None:
    url = f"postgresql+psycopg://127.0.0.1:1/name?password={PASSWORD}&connect_timeout=3"
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/name") as raised:
        migrated_engine(url)
    assert in_plain_words(raised.value)


def test_database_in_another_encoding_is_refused(postgres: PostgresServer) -> None:
    with (
        postgres.database("template0", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'") as url,
        pytest.raises(StoreUnavailable, match=r"has the encoding LATIN1.*UTF8"),
    ):
        migrated_engine(url)


def test_database_that_cannot_be_written_is_refused(postgres: PostgresServer, postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StoreUnavailable, match="read-only"):
        migrated_engine(postgres_url)
    open_read_only_engine(postgres_url).dispose()


def test_old_server_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "OLDEST_MAJOR", 99)
    with pytest.raises(StoreUnavailable, match="version 99 or newer is needed"):
        migrated_engine(postgres_url)


def test_read_only_engine_cannot_write(postgres_url: str) -> None:
    engine = open_read_only_engine(postgres_url)
    with pytest.raises(StoreUnavailable, match="it is read-only"), writing(engine, "not written") as session:
        session.execute(text("DELETE FROM inspections"))
    engine.dispose()


def test_empty_database_is_named(empty_postgres_url: str) -> None:
    with pytest.raises(StoreUnavailable, match="empty database") as raised:
        open_read_only_engine(empty_postgres_url)
    assert raised.value.is_outdated


def test_migration_waits_for_the_one_of_another_process(empty_postgres_url: str) -> None:
    other = make_engine(empty_postgres_url)
    opened: list[Engine] = []
    with other.begin() as connection:
        postgres_module.lock_for_migration(connection)
        thread = threading.Thread(target=lambda: opened.append(migrated_engine(empty_postgres_url)))
        thread.start()
        time.sleep(0.3)
        assert opened == []
    thread.join(20)
    for engine in (other, *opened):
        engine.dispose()
    assert len(opened) == 1


def test_concurrent_changes_on_two_engines_lose_no_update(
    store: Store, postgres_url: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Each change is based on the newest revision. A change that lost the race is refused, never overwritten."""
    recipe_in_force(store.engine, tiny_bundle)
    other = make_engine(postgres_url)

    def change(number: int) -> int:
        engine = (store.engine, other)[number % 2]
        while True:
            newest = recipe_history(engine, "widget", limit=1)[0]
            recipe = Recipe(fail_threshold=newest.recipe.fail_threshold + 1, review_threshold=0)
            try:
                return append_recipe(
                    engine, tiny_bundle, recipe, actor=ADA, reason="b", expected_revision=newest.revision
                ).revision
            except RecipeConflict:
                continue

    before = recipe_history(store.engine, "widget", limit=1)[0]
    with ThreadPoolExecutor(4) as pool:
        revisions = list(pool.map(change, range(12)))
    after = recipe_history(store.engine, "widget", limit=1)[0]
    assert sorted(revisions) == [before.revision + count for count in range(1, 13)]
    assert after.recipe.fail_threshold == pytest.approx(before.recipe.fail_threshold + 12)
    other.dispose()


def test_probe_follows_the_server(own_postgres: PostgresServer, tmp_path: Path) -> None:
    with own_postgres.database() as url:
        store = Store.open(url, tmp_path / "data", StoreOptions(QUICK))
        store.writer.write(make_row())
        probe = StoreProbe(store, 0)
        assert probe() == ()
        own_postgres.stop()
        (problem,) = probe()
        assert "no server listens there" in problem or "connection to the server was lost" in problem
        with pytest.raises(StoreUnavailable):
            store.writer.write(make_row())
        own_postgres.start()
        assert probe() == ()
        store.writer.write(make_row())
        with store.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM inspections")) == 2, "the probe leaves no row"
        store.close()


def test_probe_after_a_failure_inserts(store: Store, postgres: PostgresServer) -> None:
    store.writer.write(make_row())
    probe = StoreProbe(store, 0)
    assert probe() == ()
    name = str(store.engine.url.database)
    postgres.execute("ALTER TABLE inspections RENAME COLUMN method TO methods", name)
    assert probe() == (), "every half second, only the connection is examined"
    (problem,) = probe(after_failure=True)
    assert "tables do not fit" in problem
    assert probe() != ()
    postgres.execute("ALTER TABLE inspections RENAME COLUMN methods TO method", name)
    assert probe() == ()


def test_doctor_examines_the_server(
    postgres: PostgresServer, postgres_url: str, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("doctor", "--models", tiny_models, "--data", tmp_path / "data", "--port", "0", "--provider", "cpu")
    monkeypatch.setenv("PLUMBLINE_DATABASE_URL", postgres_url)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "PostgreSQL 1" in result.output
    assert "UTF8, sessions in UTC" in result.output
    assert "fsync=off" in result.output, "the server of the tests"
    assert PASSWORD not in result.output

    postgres.execute(f"ALTER DATABASE {postgres_url.rpartition('/')[2]} SET default_transaction_read_only = on")
    result = run(*arguments)
    assert result.exit_code == 1
    assert "read-only for this user" in result.output

    monkeypatch.setenv("PLUMBLINE_DATABASE_URL", postgres_url.replace(PASSWORD, "wrong-one"))
    result = run(*arguments)
    assert result.exit_code == 1
    assert "refuses the user or the password" in result.output
    assert "wrong-one" not in result.output


def test_doctor_reports_an_empty_database(
    empty_postgres_url: str, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_DATABASE_URL", empty_postgres_url)
    result = run("doctor", "--models", tiny_models, "--data", tmp_path, "--port", "0", "--provider", "cpu")
    assert result.exit_code == 0, result.output
    assert "empty database" in result.output
