"""`plumbline inspections export`."""

from __future__ import annotations

import csv
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from service.serving import exports
from service.store.errors import StoreUnavailable
from service.store.inspections import read_columns
from tests.command_line import run
from tests.databases import migrated_engine
from tests.service.store.test_query_inspections import RECORDS, START, fill


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    engine = migrated_engine(f"sqlite:///{folder / 'plumbline.db'}")
    fill(engine)
    engine.dispose()
    return folder


def test_export_is_filtered_and_leaves_the_database_as_it_was(data: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in data.iterdir()}
    out = tmp_path / "fails.csv"
    since = START + timedelta(hours=3)
    result = run(
        "inspections", "export", "--data", data, "--out", out, "--decision", "fail,review", "--station", "A",
        "--since", since.isoformat(), "--min-score", "0.2",
    )  # fmt: skip
    expected = [
        record.id
        for record in RECORDS
        if record.decision in {"fail", "review"}
        and record.station == "A"
        and record.created_at >= since
        and record.score is not None
        and record.score >= 0.2
    ]
    assert result.exit_code == 0, result.output
    assert f"{len(expected)} inspections in" in result.output
    with out.open(newline="", encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == sorted(expected, reverse=True)
    assert {path: path.read_bytes() for path in data.iterdir()} == before
    assert out.stat().st_mode & 0o077, "readable as other new files are"


def test_parquet_export(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.parquet"
    assert run("inspections", "export", "--data", data, "--out", out, "--format", "parquet").exit_code == 0
    assert pq.read_table(out).num_rows == len(RECORDS)


def test_failed_export_leaves_the_old_file_and_no_other(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "all.csv"
    out.write_text("old")
    calls: list[None] = []

    def fail(*args: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise StoreUnavailable("the database cannot be read")
        return read_columns(*args, **options)

    monkeypatch.setattr(exports, "PAGE", 10)
    monkeypatch.setattr(exports, "read_columns", fail)
    result = run("inspections", "export", "--data", data, "--out", out)
    assert result.exit_code == 1
    assert "the database cannot be read" in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["all.csv"]
    assert out.read_text() == "old"


def test_missing_pyarrow_is_explained(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run("inspections", "export", "--data", data, "--out", tmp_path / "a.parquet", "--format", "parquet")
    assert result.exit_code == 1
    assert "plumbline[parquet]" in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--decision", "bad"), "--decision: expected 'pass'"),
        (("--since", "noon"), "is not a time in ISO 8601"),
        (("--min-score", "nan"), "--min-score"),
        (("--out", "nowhere/a.csv"), "The folder nowhere of --out does not exist"),
        (("--format", "xlsx"), "--format"),
    ],
)
def test_wrong_usage_is_explained(data: Path, options: tuple[str, ...], message: str) -> None:
    result = run("inspections", "export", "--data", data, "--out", "unused.csv", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_missing_database_is_reported(tmp_path: Path) -> None:
    result = run("inspections", "export", "--data", tmp_path, "--out", tmp_path / "a.csv")
    assert result.exit_code == 1
    assert "there is no database" in " ".join(result.output.split())
