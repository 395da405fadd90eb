"""Summaries and exports of stored inspections."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.access.restrictions import require_product
from service.api.deps import ClientDep, ExportsDep, PrincipalDep, ShiftsDep, SummariesDep
from service.api.http.access import recheck, requires
from service.api.http.clients import wait_for_disconnect
from service.api.http.head import headers_only, is_head
from service.api.http.problems import problem_responses
from service.api.parameters import inspection_filter
from service.api.responses import binary_response
from service.errors import InvalidRequest
from service.schemas.records import (
    CurrentShift,
    ExportQuery,
    InspectionSummary,
    ProcessingTimes,
    ShiftQuery,
    SummaryQuery,
)
from service.serving.admission import Disconnected
from service.serving.errors import ExportFormatUnavailable, RecordsBusy
from service.serving.export_formats import MEDIA_TYPES
from service.serving.periods import parse_zone, requested_shifts
from service.serving.summaries import SummaryOptions, to_counts, to_groups
from service.store.errors import StoreUnavailable
from service.store.inspection_filter import InspectionFilter

router = APIRouter(tags=["inspections"])
_REMOVED_UNTIL = "X-Plumbline-Records-Removed-Until"


@router.get(
    "/v1/inspections:summary",
    operation_id="summarise_inspections",
    summary="Count inspections",
    responses=problem_responses(InvalidRequest, RecordsBusy, StoreUnavailable),
)
@requires("inspect", filters=True)
async def summarise_inspections(
    request: Request,
    query: Annotated[SummaryQuery, Query()],
    summaries: SummariesDep,
    client: ClientDep,
    principal: PrincipalDep,
) -> InspectionSummary:
    """Return counts by decision and yields, per hour, shift, day, station, lot or product.

    Without `until` the period ends now, without `since` it has 7 days. It has at most 400 days and 1000 groups. Hours,
    shifts and days are local: when daylight saving time ends, the hour that occurs twice is two groups, and the day
    has 25 hours. A shift includes the night after its day: with the default, the last one ends at 06:00.
    """
    options = SummaryOptions(query.by, parse_zone(query.time_zone), requested_shifts(query.shifts))
    disconnected = partial(wait_for_disconnect, request.receive)
    found = await summaries.summarise(inspection_filter(query, principal), options, client, disconnected)
    total: Counter[str] = Counter()
    for group in found.groups:
        total.update(group.counts)
    return InspectionSummary(
        by=query.by,
        time_zone=query.time_zone,
        since=found.since,
        until=found.until,
        total=to_counts(total),
        groups=to_groups(found),
        records_removed_until=found.records_removed_until,
    )


@router.get(
    "/v1/inspections:shift",
    operation_id="get_shift",
    summary="Count the inspections of the current shift",
    responses=problem_responses(InvalidRequest, StoreUnavailable),
)
@requires("inspect", filters=True)
async def read_shift(query: Annotated[ShiftQuery, Query()], shifts: ShiftsDep, principal: PrincipalDep) -> CurrentShift:
    """Return the counters of the current shift, which PLUMBLINE_SHIFTS and PLUMBLINE_TIME_ZONE define."""
    if query.product is not None:
        require_product(principal, query.product)
    which = InspectionFilter(
        product=query.product,
        station=query.station,
        permitted_products=principal.products,
        permitted_stations=principal.stations,
    )
    found = await shifts.current(which)
    tally = found.tally
    return CurrentShift(
        start=found.start,
        end=found.end,
        total=tally.counts.total(),
        counts=to_counts(tally.counts).counts,
        refused=found.refused,
        processing_ms=ProcessingTimes(min=tally.min_ms, mean=tally.mean_ms, max=tally.max_ms),
    )


@router.get(
    "/v1/inspections:export",
    operation_id="export_inspections",
    summary="Export inspections",
    response_class=Response,
    responses={
        200: binary_response(
            "A table with one row per inspection, newest first.",
            tuple(value.partition(";")[0] for value in MEDIA_TYPES.values()),
            headers={
                _REMOVED_UNTIL: {
                    "description": "Time of the newest record that was removed for its age; absent if none is of the "
                    "period or later. Earlier inspections may be missing in the table.",
                    "schema": {"type": "string", "format": "date-time"},
                }
            },
        ),
        **problem_responses(InvalidRequest, RecordsBusy, ExportFormatUnavailable, StoreUnavailable),
    },
)
@requires("inspect", filters=True)
async def export_inspections(
    request: Request,
    query: Annotated[ExportQuery, Query()],
    exports: ExportsDep,
    client: ClientDep,
    principal: PrincipalDep,
) -> Response:
    """Return stored inspections as a CSV or Parquet file, newest first.

    The file is streamed: its size is not limited, and a connection that ends early leaves an incomplete file. A client
    has one export or summary at a time. CSV follows RFC 4180 with a header, in UTF-8. In a text, `=`, `+`, `-` and
    `@` get an apostrophe before them at the start and after a semicolon, because spreadsheets would read a formula.
    Parquet files contain every text as it was sent.
    """
    which = inspection_filter(query, principal)
    headers = {"Content-Disposition": f'attachment; filename="inspections.{query.format}"'}
    removed_until = await exports.records_removed_until(which)
    if removed_until is not None:
        headers[_REMOVED_UNTIL] = removed_until.isoformat()
    response = headers_only(headers, MEDIA_TYPES[query.format])  # the size is not known before the end
    if is_head(request.scope):
        return response
    return _ExportResponse(response, partial(exports.stream, which, query.format, client))


class _ExportResponse(Response):
    """An export, sent as fast as the client reads.

    Args:
        headers: The response without its body.
        stream: Returns the pieces of the body, until a client disconnects.
    """

    def __init__(self, headers: Response, stream: Callable[[Disconnected], AsyncGenerator[bytes]]) -> None:
        self.status_code, self.background = headers.status_code, None
        self.raw_headers = headers.raw_headers
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. It begins after the first page was read, so that a failure until then is a problem."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        is_started = False
        async with aclosing(self._stream(partial(wait_for_disconnect, receive))) as pieces:
            try:
                async for piece in pieces:
                    await recheck(HTTPConnection(scope))
                    if not is_started:
                        await send(start)
                        is_started = True
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except InvalidRequest:  # the client disconnected
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
