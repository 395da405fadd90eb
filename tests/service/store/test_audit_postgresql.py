"""The audit log on PostgreSQL: several processes append to one chain, and the database refuses changes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from service.bundle.bundle import Bundle
from service.recipes.recipe import Recipe
from service.store.audit import read_audit, record_change
from service.store.audit_chain import verify_chain
from service.store.recipes import append_recipe
from service.store.removal import RetentionPolicy, estimate_removal
from service.store.session import reading
from tests.databases import migrated_engine
from tests.service.store.test_audit import ADA, check_migration, entry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
_START_TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    """Start a PostgreSQL server of its own, and yield the URL of an empty database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed: `apt-get install postgresql`")
    folder = Path(tempfile.mkdtemp())
    account: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        account = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    initdb = [*account, str(programs[-1] / "initdb"), "--no-sync", "--username=plumbline", "--auth=trust"]
    subprocess.run([*initdb, f"--pgdata={folder / 'data'}"], check=True, capture_output=True, cwd=folder)
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": port, "fsync": "off"}
    server = [*account, str(programs[-1] / "postgres"), "-D", str(folder / "data")]
    server += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    url = f"postgresql+psycopg://plumbline@127.0.0.1:{port}/postgres"
    with (folder / "log").open("wb") as log, subprocess.Popen(server, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _wait(url, process)
            yield url
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(_START_TIMEOUT_S)
    shutil.rmtree(folder)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    engine = create_engine(url, poolclass=NullPool)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            with engine.connect():
                return
        except OperationalError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_migration_goes_up_and_down(postgres_url: str) -> None:
    check_migration(postgres_url)


def test_processes_and_threads_continue_one_chain(postgres_url: str, tiny_bundle: Bundle) -> None:
    engine = migrated_engine(postgres_url)
    program = (
        "import sys; from service.store.audit import *; from service.store.database import make_engine\n"
        "engine = make_engine(sys.argv[1])\n"
        "for n in range(25): record_change(engine, AuditEntry(SERVICE, 'review:add', after={'n': n}))\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, postgres_url], cwd=ROOT) for _ in range(2)]
    recipe = Recipe(fail_threshold=2, review_threshold=1)

    def change(_: int) -> int:
        return append_recipe(engine, tiny_bundle, recipe, actor=ADA, reason="b").revision

    with ThreadPoolExecutor(4) as pool:
        revisions = list(pool.map(change, range(20)))
    assert [process.wait(60) for process in others] == [0, 0]
    assert sorted(revisions) == list(range(1, 21))
    report = verify_chain(read_audit(engine))
    assert (report.entries, report.broken) == (70, None)
    engine.dispose()


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET note = 'x'", "DELETE FROM audit_log WHERE id = 1", "TRUNCATE audit_log"]
)
def test_database_refuses_to_change_entries(postgres_url: str, statement: str) -> None:
    engine = migrated_engine(postgres_url)
    record_change(engine, entry(before={"f": 0.1 + 0.2, "text": "Späne"}))
    with engine.connect() as connection, pytest.raises(DBAPIError, match="append-only"):
        connection.execute(text(statement))
    assert verify_chain(read_audit(engine)).broken is None
    engine.dispose()


def test_removal_is_estimated(postgres_url: str) -> None:
    from service.store.writer import GroupWriter
    from tests.service.store.test_store import make_row

    engine = migrated_engine(postgres_url)
    for _ in range(4):
        GroupWriter(engine).write(make_row(artefact_bytes=100, decision="pass"))
    policy = RetentionPolicy.model_validate({"retention": {"pass": {"count": 3}}, "storage": {"max_bytes": 150}})
    with reading(engine) as session:
        found = estimate_removal(session, "widget", policy, datetime.now(UTC))
    assert (found["pass"].removed, found["pass"].kept) == (3, 1)
    engine.dispose()
