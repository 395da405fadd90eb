"""Exports of stored inspections as a table, page by page in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, RowMapping

from service.serving.admission import Disconnected
from service.serving.export_formats import ColumnKind, ExportFormat, make_encoder
from service.serving.record_jobs import RecordJobs
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import EXPORTED, read_columns
from service.store.record_removal.state import records_removed_until
from service.store.store import Store

PAGE = 500
"""Inspections that are read in one step."""
COLUMNS: Mapping[str, ColumnKind] = {
    "id": "text",
    "created_at": "time",
    "captured_at": "time",
    "product": "text",
    "station": "text",
    "lot": "text",
    "part_id": "text",
    "decision": "text",
    "score": "number",
    "p_value": "number",
    "fail_threshold": "number",
    "review_threshold": "number",
    "target_false_reject_rate": "number",
    "certified": "flag",
    "guarantee": "text",
    "calibration_images": "integer",
    "decision_by_score": "text",
    "label": "text",
    "judged_share": "number",
    "region_count": "integer",
    "invalid_reasons": "text",
    "bundle_digest": "text",
    "bundle_version": "text",
    "method": "text",
    "provider": "text",
    "recipe_revision": "integer",
    "proposal_id": "text",
    "image_media_type": "text",
    "image_width": "integer",
    "image_height": "integer",
    "image_bytes": "integer",
    "image_sha256": "text",
    "artefacts_removed_at": "time",
    "request_id": "text",
}
"""Names and kinds of the columns of an export. The names are part of the public interface."""


@dataclass(frozen=True)
class ExportPiece:
    """The next part of an exported file.

    Attributes:
        data: Its bytes.
        rows: Number of inspections that have been read so far.
    """

    data: bytes
    rows: int


def export_inspections(
    engine: Engine, which: InspectionFilter, format_name: ExportFormat
) -> Generator[ExportPiece, None, None]:
    """Read inspections, newest first, and encode them piece by piece.

    Inspections that are stored after the first page was read are not in the file.

    Args:
        engine: The database.
        which: The conditions.
        format_name: Format of the file.

    Raises:
        ExportFormatUnavailable: The package for the format is not installed.
        StoreUnavailable: The database cannot be read.
    """
    encoder = make_encoder(format_name, COLUMNS)
    before: UUID | None = None
    count, is_last = 0, False
    while not is_last:
        page = read_columns(engine, EXPORTED, which, before=before, limit=PAGE)
        is_last = len(page) < PAGE
        if page:
            count, before = count + len(page), UUID(page[-1]["id"])
            yield ExportPiece(encoder.encode([_row(row) for row in page]), count)
    yield ExportPiece(encoder.finish(), count)


def missing_until(engine: Engine, which: InspectionFilter) -> datetime | None:
    """Return up to which time records were removed that an export may lack; None if none were.

    Args:
        engine: The database.
        which: The conditions of the export.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    return records_removed_until(engine, which.values["product"], which.since)


def _row(row: RowMapping) -> dict[str, Any]:
    """Return the values of the columns."""
    reasons = dict.fromkeys(item["reason"] for item in row["objections"] or [])
    return {
        **row,
        "guarantee": "certified" if row["certified"] else "suspended" if row["suspended"] else "none",
        "calibration_images": row["calibration_count"],
        "decision_by_score": row["by_score"] or row["decision"],
        "judged_share": 1.0 if row["judged_share"] is None else row["judged_share"],
        "invalid_reasons": ";".join(reasons) or None,
    }


class ExportService:
    """Exports stored inspections to clients.

    Args:
        store: The inspections.
        jobs: Limits the summaries and exports at the same time.
    """

    def __init__(self, store: Store, jobs: RecordJobs) -> None:
        self._engine = store.engine
        self._jobs = jobs

    async def records_removed_until(self, which: InspectionFilter) -> datetime | None:
        """Return the time of the newest record that was removed and that an export may lack; None if there is none.

        Args:
            which: The conditions.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        return await asyncio.to_thread(missing_until, self._engine, which)

    async def stream(
        self, which: InspectionFilter, format_name: ExportFormat, client: str, disconnected: Disconnected
    ) -> AsyncGenerator[bytes]:
        """Yield the bytes of a file. The next page is read when the piece before was taken.

        Args:
            which: The conditions.
            format_name: Format of the file.
            client: Identity of the client.
            disconnected: Ends the work when the client closes its connection.

        Raises:
            RecordsBusy: The client has another job, or too many clients have.
            ExportFormatUnavailable: The package for the format is not installed.
            InvalidRequest: The client disconnected.
            StoreUnavailable: The database cannot be read.
        """
        async with self._jobs.reserve(client, disconnected) as job:
            pieces = export_inspections(self._engine, which, format_name)
            while (piece := await job.run(partial(next, pieces, None))) is not None:
                if piece.data:
                    yield piece.data
