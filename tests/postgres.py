"""PostgreSQL for tests: a server of the installed version, and a fresh database per test.

`database_url` runs a test on SQLite and on PostgreSQL. `postgres_url` and `empty_postgres_url` are for tests that need
PostgreSQL, `own_postgres` for those that stop or kill the server.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tests.databases import migrated_engine

PASSWORD = "not-to-be-shown"
REMEDY = "PostgreSQL is not installed: `make system-deps`, or install Debian's package postgresql."
_TEMPLATE = "migrated"
_START_TIMEOUT_S = 60.0
_PORT_ATTEMPTS = 3
_ACCOUNT = "postgres"  # PostgreSQL refuses to run as root


@dataclass
class PostgresServer:
    """A server on the loopback, with its files in a temporary folder.

    Attributes:
        programs: Folder of the programs of PostgreSQL.
        folder: Folder of the server.
        is_durable: Whether commits wait for the disk. Tests are faster without.
        shared_buffers: Memory of the server's own cache, as PostgreSQL states it.
        port: The TCP port. It stays the same after a restart.
    """

    programs: Path
    folder: Path
    is_durable: bool
    shared_buffers: str = "16MB"
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _count: int = 0

    @property
    def pid(self) -> int:
        """Id of the process that all others of the server descend from."""
        assert self._process is not None
        return self._process.pid

    def initialise(self) -> None:
        """Create the files of the server."""
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self.folder, password):
                shutil.chown(path, _ACCOUNT, _ACCOUNT)
        subprocess.run(
            [
                self.programs / "initdb", "--no-sync", "--username=plumbline", "--auth=scram-sha-256",
                f"--pwfile={password}", "--encoding=UTF8", "--locale=C", f"--pgdata={self.folder / 'data'}",
            ],
            check=True, capture_output=True, cwd=self.folder, **_as_account(),
        )  # fmt: skip

    def start_on_free_port(self) -> None:
        """Start the server on a port that nothing else uses."""
        for attempt in range(_PORT_ATTEMPTS):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            try:
                self.start()
                return
            except RuntimeError:  # another program took the port in the meantime
                if attempt == _PORT_ATTEMPTS - 1:
                    raise

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        # A time zone that differs from UTC, and from that of most machines: results must not depend on it.
        options |= {"timezone": "Asia/Kathmandu", "max_connections": 200, "shared_buffers": self.shared_buffers}
        if not self.is_durable:
            options |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        if (setpriv := shutil.which("setpriv")) is not None:  # no server is left if the tests are killed
            command = [setpriv, "--pdeathsig", "KILL", *command]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **_as_account())
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self.execute("SELECT 1")
                return
            except OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGTERM waits for clients, SIGINT disconnects them, SIGQUIT is an immediate shutdown."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(_START_TIMEOUT_S)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all processes of the server without ending them until the end of the block, as if the network were cut.

        They continue also if the block fails: a stopped server would ignore every signal that ends it.
        """
        self._signal_all(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_all(signal.SIGCONT)

    def url(self, database: str, password: str = PASSWORD) -> str:
        """Return the SQLAlchemy URL of a database."""
        url = URL.create("postgresql+psycopg", "plumbline", password, "127.0.0.1", self.port, database)
        return url.render_as_string(hide_password=False)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement outside a transaction."""
        engine = create_engine(self.url(database), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))

    @contextmanager
    def database(self, template: str = "template0", options: str = "") -> Iterator[str]:
        """Create a database for the block and yield its URL.

        Args:
            template: The database that is copied.
            options: Further options of CREATE DATABASE.
        """
        self._count += 1
        name = f"test_{self._count}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} {options}")
        try:
            yield self.url(name)
        finally:
            if self._process is not None:
                self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def create_template(self) -> None:
        """Create the database that migrated ones are copied from, which is faster than migrating each."""
        self.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
        migrated_engine(self.url(_TEMPLATE)).dispose()

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            os.kill(pid, number)


@contextmanager
def postgres_process(*, is_durable: bool = False, shared_buffers: str = "16MB") -> Iterator[PostgresServer]:
    """Run a server until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = PostgresServer(find_programs(), folder, is_durable, shared_buffers)
    try:
        server.initialise()
        server.start_on_free_port()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs; skip the test if there is none."""
    # Debian keeps them out of the search path, by version.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [folder for folder in folders if (folder / "initdb").exists()]
    if (initdb := shutil.which("initdb")) is not None:
        found.append(Path(initdb).resolve().parent)
    if not found:
        pytest.skip(REMEDY)
    return found[0]


def _as_account() -> dict[str, Any]:
    return {"user": _ACCOUNT, "group": _ACCOUNT, "extra_groups": ()} if os.geteuid() == 0 else {}


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that all tests share. Never stop it; see `own_postgres`."""
    with postgres_process() as server:
        server.create_template()
        yield server


@contextmanager
def migrated_database(server: PostgresServer) -> Iterator[str]:
    """Create a database with the tables of this version and no rows for the block, and yield its URL.

    Args:
        server: The server of the fixture `postgres`.
    """
    with server.database(_TEMPLATE) as url:
        yield url


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A database with the tables of this version and no rows."""
    with migrated_database(postgres) as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A database without tables."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server for one test, which may stop and kill it. Its commits wait for the disk."""
    with postgres_process(is_durable=True) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database, in SQLite and in PostgreSQL: a test that uses this fixture runs on both.

    The file of SQLite is `plumbline.db` in the folder `db` of `tmp_path`, and does not exist yet.
    """
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'db' / 'plumbline.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As `database_url`, without tables in PostgreSQL, too."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'plumbline.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url
