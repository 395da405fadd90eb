"""The audit log as text: JSON Lines, which `plumbline audit verify --against` reads, and CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from service.spreadsheets import guard_formulas
from service.store.audit import FIELDS, AuditRecord, canonical_json

ExportFormat = Literal["jsonl", "csv"]


def export_lines(records: Iterable[AuditRecord], form: ExportFormat) -> Iterator[str]:
    """Yield an export line by line, each with its line end. CSV begins with a line of names.

    Args:
        records: The entries.
        form: The format.
    """
    if form == "jsonl":
        for record in records:
            yield json.dumps(record.values(), ensure_ascii=False) + "\n"
        return
    yield _csv_line(FIELDS)
    for record in records:
        yield _csv_line([_cell(value) for value in record.values().values()])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return guard_formulas(value if isinstance(value, str) else canonical_json(value))


def _csv_line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()
