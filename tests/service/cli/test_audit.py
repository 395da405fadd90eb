"""`plumbline audit` on a database, whether the service is running or not."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.store.audit import AuditRecord, read_audit, record_change
from service.store.database import open_read_only_engine
from service.store.store import Store
from tests.command_line import run
from tests.service.store.test_audit import ADA, entry


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data folder with four entries in its audit log; the service runs meanwhile."""
    store = Store.open(f"sqlite:///{tmp_path / 'data' / 'plumbline.db'}", tmp_path / "data")
    for number in range(4):
        record_change(store.engine, entry(number, note="=1+1", object=f"revision {number}"))
    yield tmp_path / "data"
    store.close()


def records(data: Path) -> list[AuditRecord]:
    engine = open_read_only_engine(f"sqlite:///{data / 'plumbline.db'}")
    found = list(read_audit(engine))
    engine.dispose()
    return found


def tamper(data: Path, statement: str) -> None:
    with sqlite3.connect(data / "plumbline.db") as database:
        for name in ("no_update", "no_delete", "no_gap"):
            database.execute(f"DROP TRIGGER audit_log_{name}")
        database.execute(statement)
    database.close()


def test_intact_log_is_verified_and_its_head_is_printed(data: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in data.iterdir() if path.suffix == ".db"}
    result = run("audit", "verify", "--data", data)
    head = records(data)[-1].hash
    assert (result.exit_code, result.stdout) == (0, f"intact 4 entries\nhead: {head}\n")
    assert {path.name: path.stat().st_mtime_ns for path in data.iterdir() if path.suffix == ".db"} == before
    as_json = run("audit", "verify", "--data", data, "--json")
    assert json.loads(as_json.stdout) == {"entries": 4, "head": head, "broken": None}


def test_first_broken_entry_is_named(data: Path) -> None:
    tamper(data, "UPDATE audit_log SET actor = 'Bob' WHERE id >= 2")
    result = run("audit", "verify", "--data", data)
    assert result.exit_code == 1
    assert result.stdout.startswith("broken entry 2: its content has the hash")
    as_json = run("audit", "verify", "--data", data, "--json")
    assert (as_json.exit_code, json.loads(as_json.stdout)["broken"]["id"]) == (1, 2)


def test_removed_end_is_noticed_with_a_hash_or_an_export(data: Path, tmp_path: Path) -> None:
    export, head = tmp_path / "audit.jsonl", records(data)[-1].hash
    assert run("audit", "export", "--data", data, "--output", export).exit_code == 0
    known: list[tuple[str, str | Path]] = [("--expect-head", head.upper()), ("--against", export)]
    assert [run("audit", "verify", "--data", data, *options).exit_code for options in known] == [0, 0]
    tamper(data, "DELETE FROM audit_log WHERE id = 4")
    assert run("audit", "verify", "--data", data).exit_code == 0
    for options in known:
        result = run("audit", "verify", "--data", data, *options)
        assert result.exit_code == 1
        assert "broken entry 4" in result.stdout
        assert "the end was removed" in result.stdout


def test_export_contains_every_entry_as_lines_of_json(data: Path) -> None:
    result = run("audit", "export", "--data", data)
    assert result.exit_code == 0
    assert [json.loads(line) for line in result.stdout.splitlines()] == [item.values() for item in records(data)]


def test_export_as_csv_contains_no_formula(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "audit.csv"
    assert run("audit", "export", "--data", data, "--format", "csv", "--output", file).exit_code == 0
    rows = list(csv.DictReader(io.StringIO(file.read_bytes().decode(), newline="")))
    assert [row["id"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["note"] for row in rows} == {"'=1+1"}
    assert rows[1]["after"] == '{"n":1}'
    assert rows[1]["actor"] == ADA.name


def test_export_is_limited_to_a_period(data: Path) -> None:
    third = records(data)[2].created_at.isoformat()

    def lines(*options: str) -> int:
        return len(run("audit", "export", "--data", data, *options).stdout.splitlines())

    assert (lines("--since", third), lines("--until", third)) == (2, 2)
    assert lines("--since", third, "--until", third) == 0
    wrong = run("audit", "export", "--data", data, "--since", "yesterday")
    assert (wrong.exit_code, "ISO 8601" in wrong.stderr) == (2, True)


def test_failures_are_explained(data: Path, tmp_path: Path) -> None:
    missing = run("audit", "verify", "--data", tmp_path / "none")
    assert (missing.exit_code, "There is no database" in missing.stderr) == (1, True)
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text("no JSON\n")
    result = run("audit", "verify", "--data", data, "--against", wrong)
    assert (result.exit_code, "Line 1 of the exported file is not JSON" in result.stderr) == (2, True)
    result = run("audit", "verify", "--data", data, "--against", tmp_path / "none.jsonl")
    assert (result.exit_code, "cannot be read" in result.stderr) == (2, True)
    result = run("audit", "export", "--data", data, "--output", tmp_path / "none" / "x.jsonl")
    assert (result.exit_code, "cannot be written" in result.stderr) == (1, True)
    tamper(data, "UPDATE audit_log SET created_at = 'yesterday' WHERE id = 3")
    result = run("audit", "export", "--data", data)
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 2)
    assert "`plumbline audit verify` names it" in result.stderr
    assert "broken entry 3: it cannot be read" in run("audit", "verify", "--data", data).stdout
