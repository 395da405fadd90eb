"""`plumbline inspections export`."""

from __future__ import annotations

import csv
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, delete, insert

from service.serving import exports
from service.store.errors import StoreUnavailable
from service.store.inspections import read_columns
from service.store.models import InspectionLabelRow
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


def exported(data: Path, out: Path, *options: str) -> list[dict[str, str]]:
    result = run("inspections", "export", "--data", data, "--out", out, *options)
    assert result.exit_code == 0, result.output
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_export_has_the_label_and_is_filtered_by_label_and_ids(data: Path, tmp_path: Path) -> None:
    first, second, third = sorted((record for record in RECORDS), key=lambda record: record.id)[:3]
    engine = create_engine(f"sqlite:///{data / 'plumbline.db'}")
    with engine.begin() as connection:
        rows = [
            {"inspection_id": record.id, "product": record.product, "label": label, "kind": None}
            for record, label in ((first, "good"), (second, "defect"))
        ]
        connection.execute(insert(InspectionLabelRow), rows)
    try:
        out = tmp_path / "labels.csv"
        ids = f"{first.id},{second.id},{third.id}"
        assert [row["label"] for row in exported(data, out, "--ids", ids)] == ["", "defect", "good"]
        assert [row["id"] for row in exported(data, out, "--label", "good")] == [first.id]
        both = exported(data, out, "--decision", "pass,fail,review,invalid", "--ids", ids)
        assert [row["label"] for row in both] == ["", "defect", "good"]
        every = {row["id"]: row["label"] for row in exported(data, out, "--decision", "pass,fail,review,invalid")}
        assert {one: label for one, label in every.items() if label} == {first.id: "good", second.id: "defect"}
    finally:
        with engine.begin() as connection:
            connection.execute(delete(InspectionLabelRow))
        engine.dispose()


def test_unknown_product_is_reported_unless_it_has_records(data: Path, tmp_path: Path) -> None:
    models, out = tmp_path / "models", tmp_path / "a.csv"
    (models / "gear" / "1").mkdir(parents=True)
    options = ("inspections", "export", "--data", data, "--models", models, "--out", out, "--product")
    result = run(*options, "wahser")
    message = " ".join(result.output.split())
    assert result.exit_code == 2
    assert "no inspection of 'wahser' is stored" in message
    assert "Its products: gear." in message
    assert not out.exists()
    assert "0 inspections" in run(*options, "gear").output, "it exists and has no records"
    assert run(*options, "nut").exit_code == 0, "it has records"


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
    assert "'.[parquet]'" in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--decision", "bad"), "--decision: expected 'pass'"),
        (("--ids", "7"), "--ids: expected ids of inspections"),
        (("--label", "bad"), "--label"),
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
