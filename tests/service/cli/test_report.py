"""`plumbline report`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from service.schemas.report import ShiftReport
from tests.command_line import run
from tests.databases import migrated_engine
from tests.service.store.test_query_inspections import RECORDS, START, fill

PERIOD = ("--product", "washer", "--since", "2026-03-01T00:00:00+00:00", "--until", "2026-05-01T00:00:00+00:00")
WASHERS = [record for record in RECORDS if record.product == "washer"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    engine = migrated_engine(f"sqlite:///{folder / 'plumbline.db'}")
    fill(engine)
    engine.dispose()
    return folder


def test_page_is_written_and_the_database_stays_as_it_was(data: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in data.iterdir()}
    out = tmp_path / "report.html"
    result = run("report", "--data", data, *PERIOD, "--output", out, "--language", "de", "--time-zone", "Europe/Berlin")
    assert result.exit_code == 0, result.output
    assert f"{len(WASHERS)} inspections reported in" in result.output
    page = out.read_text(encoding="utf-8")
    assert "Schichtbericht" in page
    assert "01.03.2026, 01:00:00 +01:00" in page
    assert {path: path.read_bytes() for path in data.iterdir()} == before


def test_report_is_printed_in_every_format(data: Path) -> None:
    printed = run("report", "--data", data, *PERIOD, "--format", "json", "--station", "A")
    assert printed.exit_code == 0, printed.output
    found = ShiftReport.model_validate_json(printed.stdout)
    assert found.total.total == sum(record.station == "A" for record in WASHERS)
    rows = csv.DictReader(io.StringIO(run("report", "--data", data, *PERIOD, "--format", "csv").stdout))
    values = {(row["section"], row["measure"]): row["value"] for row in rows if not row["item"]}
    assert values["total", "inspected"] == str(len(WASHERS))
    assert run("report", "--data", data, *PERIOD).stdout.lstrip().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--product", "nail", "--since", "2026-03-01"), "no inspection of 'nail' is stored"),
        (("--product", "washer", "--since", "yesterday"), "not a time in ISO 8601"),
        (("--product", "washer", "--since", "2026-03-02", "--until", "2026-03-01"), "is empty"),
        (("--product", "washer", "--since", "2020-03-02", "--until", "2026-03-01"), "more than 400 days"),
        (("--product", "washer", "--since", START.isoformat(), "--time-zone", "Nowhere"), "--time-zone"),
        (("--product", "washer", "--since", START.isoformat(), "--output", "no/such/folder/x.html"), "does not exist"),
    ],
)
def test_wrong_usage_is_refused(data: Path, options: tuple[str, ...], message: str) -> None:
    result = run("report", "--data", data, *options)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def test_missing_database_is_reported(tmp_path: Path) -> None:
    result = run("report", "--data", tmp_path, *PERIOD)
    assert result.exit_code == 1
    assert "no database" in " ".join(result.output.split())
