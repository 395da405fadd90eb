"""A backup of PostgreSQL is restored by the commands of the guide, also one from before an upgrade."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.pool import NullPool

from service.store.database import _upgrade
from service.store.schema import FIRST_COMPATIBLE, Schema, newest_revision
from tests.databases import migrated_engine
from tests.docs.blocks import ROOT, blocks_of
from tests.postgres import PASSWORD, PostgresServer, find_programs, postgres_process

pytestmark = pytest.mark.slow

GUIDE = ROOT / "docs" / "how-to" / "store.md"
(RESTORE,) = [block.text for block in blocks_of(GUIDE) if block.reason and Path(__file__).name in block.reason]
(BACK_UP,) = re.findall(r"`(pg_dump [^`]+ plumbline)`", GUIDE.read_text(encoding="utf-8"))
ATTEMPT = (
    "INSERT INTO login_attempts (account, client, password, tried_at, is_settled) "
    "VALUES ('{account}', 'c', 'p', now(), true)"
)


def runner(server: PostgresServer, folder: Path) -> Callable[[str], None]:
    """Return a function that runs commands of bash with the programs and the account of a server."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(find_programs()), os.environ["PATH"]]),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGUSER": "plumbline",
        "PGPASSWORD": PASSWORD,
    }

    def run(commands: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    return run


def schema_of(url: str) -> tuple[Schema, set[str], list[str]]:
    """Return the schema of a database, its tables, and the accounts in the rows of the test."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        accounts = list(connection.scalars(text("SELECT account FROM login_attempts")))
        return Schema.of(connection), set(inspect(connection).get_table_names()), accounts


def test_backup_from_before_an_upgrade_is_restored_and_upgraded_again(tmp_path: Path) -> None:
    with postgres_process() as server:
        run, url = runner(server, tmp_path), server.url("plumbline")
        server.execute("CREATE DATABASE plumbline TEMPLATE template0")
        engine = create_engine(url, poolclass=NullPool)
        _upgrade(engine, FIRST_COMPATIBLE)
        server.execute(ATTEMPT.format(account="before"), "plumbline")
        _, tables, _ = schema_of(url)
        run(BACK_UP)
        migrated_engine(url).dispose()
        server.execute(ATTEMPT.format(account="after"), "plumbline")

        run(RESTORE)

        assert schema_of(url) == (Schema(FIRST_COMPATIBLE, None), tables, ["before"])
        migrated_engine(url).dispose()
        assert schema_of(url)[0].revision == newest_revision()
        assert schema_of(url)[2] == ["before"]
        assert schema_of(server.url("plumbline_before"))[2] == ["before", "after"], "nothing is lost by a restore"
