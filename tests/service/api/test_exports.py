"""Exports of stored inspections over HTTP."""

from __future__ import annotations

import csv
import io
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from sqlalchemy import insert

from plumbline_client import Client
from service.serving import export_formats, exports
from service.serving.export_formats import ROW_GROUP, CsvEncoder, ExportFormat, make_encoder
from service.serving.exports import COLUMNS
from service.store.errors import StoreUnavailable
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import read_columns
from service.store.models import InspectionRow
from service.store.session import transaction
from tests.databases import migrated_engine
from tests.problems import assert_problem
from tests.running_service import RunningService, Serve
from tests.service.store.test_query_inspections import RECORDS
from tests.service.store.test_store import make_row

LIST, SUMMARY, EXPORT = "/v1/inspections", "/v1/inspections:summary", "/v1/inspections:export"


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_the_same_inspections_as_the_list(records: RunningService) -> None:
    response = records.client.get(EXPORT, params={"station": "A"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert response.headers["content-disposition"] == 'attachment; filename="inspections.csv"'
    rows = read_csv(response.text)
    listed = records.fetch(LIST, station="A", limit=500)["items"]
    assert list(rows[0]) == list(COLUMNS)
    assert [row["id"] for row in rows] == [item["id"] for item in listed]
    for row, item in zip(rows, listed, strict=True):
        assert row["score"] == ("" if item["score"] is None else repr(item["score"]))
        assert (row["lot"] or None, row["part_id"] or None) == (item["lot"], item["part_id"])
        assert row["region_count"] == str(len(item["regions"]))
        assert datetime.fromisoformat(row["created_at"]) == datetime.fromisoformat(item["created_at"])
        assert row["certified"] == "true"


def test_csv_is_as_rfc_4180_demands() -> None:
    rows: list[dict[str, Any]] = [{"name": 'a "b", c', "note": "line\r\nbreak"}, {"name": "Größe", "note": None}]
    encoder = CsvEncoder({"name": "text", "note": "text"})
    encoded = encoder.encode(rows) + encoder.finish()
    assert encoded == 'name,note\r\n"a ""b"", c","line\r\nbreak"\r\nGröße,\r\n'.encode()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_that_a_spreadsheet_would_execute_is_made_harmless(start: str) -> None:
    encoder = CsvEncoder({"name": "text", "score": "number", "count": "integer"})
    text = encoder.encode([{"name": f"{start}cmd|'/C calc'!A0", "score": -1.5, "count": -2}]).decode()
    (row,) = read_csv(text)
    assert row == {"name": f"'{start}cmd|'/C calc'!A0", "score": "-1.5", "count": "-2"}


def test_formula_in_a_part_id_is_harmless_in_csv_and_unchanged_in_parquet(serve: Serve) -> None:
    with serve() as service:
        service.inspect(params={"part_id": "=1+1"})
        (row,) = read_csv(service.client.get(EXPORT).text)
        table = pq.read_table(io.BytesIO(service.client.get(EXPORT, params={"format": "parquet"}).content))
    assert row["part_id"] == "'=1+1"
    assert table["part_id"].to_pylist() == ["=1+1"]


def test_parquet_has_typed_columns(records: RunningService) -> None:
    response = records.client.get(EXPORT, params={"format": "parquet", "product": "nut"})
    assert response.headers["content-type"] == "application/vnd.apache.parquet"
    rows = pq.read_table(io.BytesIO(response.content)).to_pylist()
    nuts = sorted((record for record in RECORDS if record.product == "nut"), key=lambda record: record.id, reverse=True)
    assert [(row["id"], row["created_at"], row["score"], row["certified"]) for row in rows] == [
        (record.id, record.created_at, record.score, record.certified) for record in nuts
    ]


@pytest.mark.parametrize(("format_name", "rows"), [("csv", 0), ("parquet", 0)])
def test_export_of_nothing_is_a_valid_file(records: RunningService, format_name: str, rows: int) -> None:
    response = records.client.get(EXPORT, params={"format": format_name, "product": "none"})
    assert response.status_code == 200
    if format_name == "csv":
        assert response.text == ",".join(COLUMNS) + "\r\n"
    else:
        assert pq.read_table(io.BytesIO(response.content)).num_rows == rows


def test_parquet_is_written_row_group_by_row_group() -> None:
    encoder = make_encoder("parquet", {"id": "text"})
    sizes = [len(encoder.encode([{"id": str(number)} for number in range(500)])) for _ in range(3 * ROW_GROUP // 500)]
    data = [index for index, size in enumerate(sizes) if size > 1000]
    assert len(data) == 3, "a row group leaves the memory when it is complete"


def test_export_reads_page_by_page(records: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PAGE", 7)
    rows = read_csv(records.client.get(EXPORT, params={"decision": "pass,fail"}).text)
    expected = sorted((one.id for one in RECORDS if one.decision in {"pass", "fail"}), reverse=True)
    assert [row["id"] for row in rows] == expected


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["csv", "parquet"])
def test_memory_of_an_export_does_not_grow_with_its_rows(format_name: ExportFormat, tmp_path: Path) -> None:
    # Without a service, whose threads would use memory, too.
    engine = migrated_engine(f"sqlite:///{tmp_path / 'plumbline.db'}")

    def export() -> tuple[int, int]:
        """Return the size of the file and the peak of the memory."""
        tracemalloc.start()
        size = sum(len(piece.data) for piece in exports.export_inspections(engine, InspectionFilter(), format_name))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size, peak

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(export_formats, "ROW_GROUP", 1000)
        export()  # imports what is needed
        sizes = []
        for _ in range(2):
            with transaction(engine, "rows cannot be stored") as connection:
                connection.execute(insert(InspectionRow), [make_row().columns() for _ in range(3000)])
            sizes.append(export())
    engine.dispose()
    (small, small_peak), (large, large_peak) = sizes
    assert large > 1.9 * small
    assert large_peak < 1.3 * small_peak


def test_head_does_not_read_the_records(records: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "read_columns", None)
    response = records.client.head(EXPORT)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("text/csv")


def test_missing_pyarrow_is_explained(records: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    response = records.client.get(EXPORT, params={"format": "parquet"})
    problem = assert_problem(response, 501, "export-format-unavailable")
    assert "pip install ./client '.[parquet]'" in problem["detail"]
    assert records.client.get(EXPORT).status_code == 200, "the client has no job any more"


@pytest.fixture
def slow_pages(records: RunningService, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Exports read small pages slowly; the list has the time of each."""
    times: list[float] = []

    def slow(*args: Any, **options: Any) -> Any:
        times.append(time.monotonic())
        time.sleep(0.2)
        return read_columns(*args, **options)

    monkeypatch.setattr(exports, "PAGE", 2)
    monkeypatch.setattr(exports, "read_columns", slow)
    yield times
    deadline = time.monotonic() + 10
    while records.client.get(SUMMARY).status_code != 200:
        assert time.monotonic() < deadline, "the job has not ended"
        time.sleep(0.05)


def test_a_client_has_one_export_at_a_time(records: RunningService, slow_pages: list[float]) -> None:
    with records.client.stream("GET", EXPORT) as response:
        next(response.iter_raw())
        for path in (EXPORT, SUMMARY):
            problem = assert_problem(records.client.get(path), 503, "records-busy")
            assert problem["retry_after"] > 0
        assert records.client.get(LIST).status_code == 200, "lists are not affected"
    assert slow_pages


def test_disconnect_ends_the_export(records: RunningService, slow_pages: list[float]) -> None:
    with records.client.stream("GET", EXPORT) as response:
        next(response.iter_raw())
    deadline = time.monotonic() + 5
    while records.client.get(SUMMARY).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    read = len(slow_pages)
    time.sleep(0.3)
    assert len(slow_pages) == read < len(RECORDS) / 2


def test_failure_before_the_first_byte_is_a_problem(records: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise StoreUnavailable("the database cannot be read")

    monkeypatch.setattr(exports, "read_columns", fail)
    assert_problem(records.client.get(EXPORT), 503, "store-unavailable")


def test_failure_in_between_ends_the_connection(records: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = threading.Semaphore(1)

    def fail(*args: Any, **options: Any) -> Any:
        if not calls.acquire(blocking=False):
            raise StoreUnavailable("the database cannot be read")
        return read_columns(*args, **options)

    monkeypatch.setattr(exports, "PAGE", 5)
    monkeypatch.setattr(exports, "read_columns", fail)
    with pytest.raises(httpx.RemoteProtocolError):
        records.client.get(EXPORT)


def test_client_downloads_an_export(records: RunningService, tmp_path: Path) -> None:
    file = tmp_path / "lot.csv"
    with Client(f"http://127.0.0.1:{records.port}") as plumbline:
        plumbline.export(file, lot="L1")
    assert len(read_csv(file.read_bytes().decode())) == sum(record.lot == "L1" for record in RECORDS)
