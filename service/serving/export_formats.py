"""Formats of exports: CSV and Parquet, written piece by piece in bounded memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol

from service.serving.errors import ExportFormatUnavailable
from service.spreadsheets import guard_formulas

if TYPE_CHECKING:
    import pyarrow as pa

ExportFormat = Literal["csv", "parquet"]
MEDIA_TYPES: Mapping[ExportFormat, str] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}
ROW_GROUP = 20_000
"""Rows of a row group in Parquet files. The memory of an export is proportional to it."""
ColumnKind = Literal["text", "number", "integer", "flag", "time"]


class Encoder(Protocol):
    """Turns rows into the bytes of a file."""

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Return the next bytes of the file; they may lag behind the rows."""

    def finish(self) -> bytes:
        """Return the last bytes of the file."""


def available_formats() -> tuple[ExportFormat, ...]:
    """Return the formats whose packages are installed."""
    return ("csv",) if find_spec("pyarrow") is None else ("csv", "parquet")


def make_encoder(format_name: ExportFormat, columns: Mapping[str, ColumnKind]) -> Encoder:
    """Return an encoder.

    Args:
        format_name: The format.
        columns: Names and kinds of the columns, in their order.

    Raises:
        ExportFormatUnavailable: The package for the format is not installed.
    """
    return CsvEncoder(columns) if format_name == "csv" else ParquetEncoder(columns)


class CsvEncoder:
    """CSV according to RFC 4180: UTF-8, CRLF, a header, quotes only where they are needed.

    A text that a spreadsheet could read as a formula gets an apostrophe: see `service.spreadsheets`. Numbers are
    written unchanged.

    Args:
        columns: Names and kinds of the columns, in their order.
    """

    def __init__(self, columns: Mapping[str, ColumnKind]) -> None:
        self._columns = tuple(columns)
        self._buffer = io.StringIO(newline="")
        self._writer = csv.writer(self._buffer, lineterminator="\r\n")
        self._writer.writerow(self._columns)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Return the lines of the rows; the header comes first."""
        self._writer.writerows([_cell(row[name]) for name in self._columns] for row in rows)
        return self.finish()

    def finish(self) -> bytes:
        """Return what has not been returned yet: the header if there were no rows."""
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text.encode()


def _cell(value: object) -> object:
    if isinstance(value, str):
        return guard_formulas(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value


class ParquetEncoder:
    """Parquet with one row group per `ROW_GROUP` rows.

    Args:
        columns: Names and kinds of the columns, in their order.

    Raises:
        ExportFormatUnavailable: pyarrow is not installed.
    """

    def __init__(self, columns: Mapping[str, ColumnKind]) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ExportFormatUnavailable("parquet", "pyarrow", "parquet") from error
        kinds: dict[ColumnKind, pa.DataType] = {
            "text": pa.string(),
            "number": pa.float64(),
            "integer": pa.int64(),
            "flag": pa.bool_(),
            "time": pa.timestamp("us", tz="UTC"),
        }
        self._arrow = pa
        self._schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self._sink = _Sink()
        self._writer = pq.ParquetWriter(pa.PythonFile(self._sink, mode="w"), self._schema)
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Return the row group that the rows complete; nothing before."""
        batch = [self._arrow.array([row[field.name] for row in rows], field.type) for field in self._schema]
        self._batches.append(self._arrow.RecordBatch.from_arrays(batch, schema=self._schema))
        self._rows += len(rows)
        if self._rows >= ROW_GROUP:
            self._write()
        return self._sink.take()

    def finish(self) -> bytes:
        """Return the last row group and the footer."""
        if self._batches:
            self._write()
        self._writer.close()
        return self._sink.take()

    def _write(self) -> None:
        self._writer.write_table(self._arrow.Table.from_batches(self._batches, self._schema), ROW_GROUP * 2)
        self._batches, self._rows = [], 0


class _Sink(io.RawIOBase):
    """A file that is only written to, from start to end, and whose bytes are taken while it is written."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._position += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
