"""Stored inspections as server-sent events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.access.restrictions import require_product
from service.api.deps import ClientDep, EventsDep, PrincipalDep
from service.api.http.access import recheck, requires
from service.api.http.clients import wait_for_disconnect
from service.api.http.head import headers_only, is_head
from service.api.http.problems import REQUEST_ID, problem_body, problem_responses
from service.errors import InvalidRequest, PlumblineError, ShuttingDown
from service.schemas.common import LABEL_PATTERN
from service.schemas.problem import Problem
from service.schemas.records import EventQuery, split_decisions
from service.serving.errors import TooManyEventStreams
from service.serving.events import EventStream
from service.store.errors import StoreUnavailable
from service.store.inspection_feed import MAX_CURSOR
from service.store.inspection_filter import InspectionFilter

router = APIRouter(tags=["inspections"])

EVENT_STREAM = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter for nginx, which would collect events


@router.get(
    "/v1/inspections:events",
    operation_id="follow_inspections",
    summary="Follow inspections",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events without an end. `data` of each is an inspection (schema `Inspection`), "
            "`id` the cursor behind it.",
            "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
        },
        **problem_responses(InvalidRequest, TooManyEventStreams, ShuttingDown, StoreUnavailable),
    },
)
@requires("inspect", filters=True)
async def follow_inspections(
    request: Request,
    query: Annotated[EventQuery, Query()],
    events: EventsDep,
    client: ClientDep,
    principal: PrincipalDep,
    last_event_id: Annotated[
        str | None,
        Header(
            max_length=MAX_CURSOR,
            pattern=LABEL_PATTERN,
            description="As the parameter `last_event_id`, which it overrides.",
        ),
    ] = None,
) -> Response:
    """Send every inspection when it was stored, as server-sent events.

    With the cursor of the last event (`Last-Event-ID`, which browsers send when they connect again) the stream begins
    behind it: no inspection is missing and none is repeated, also after a restart of the service, and from another
    process on the same database. Without a cursor, it begins with inspections that are stored from now on. The id of an
    inspection is a cursor, too. The events are in the order in which the inspections were stored, which is nearly the
    order of their ids. `label` is null.

    At least once per second something is sent, if only a comment, so a client that receives nothing for some seconds
    has lost the connection. A client that reads too slowly is disconnected; it continues with its cursor. When the
    service stops, the stream ends. Before it ends because of an error, such as a key that was revoked, an event with
    the name `problem` states it. A restricted key receives the inspections that it permits.
    """
    if query.product is not None:
        require_product(principal, query.product)
    which = InspectionFilter(
        product=query.product,
        station=query.station,
        decisions=() if query.decision is None else split_decisions(query.decision),
        permitted_products=principal.products,
        permitted_stations=principal.stations,
    )
    if is_head(request.scope):
        return headers_only(_HEADERS, EVENT_STREAM)
    return _EventResponse(await events.open(which, last_event_id or query.last_event_id, client))


class _EventResponse(Response):
    """Server-sent events.

    Args:
        stream: The events.
    """

    def __init__(self, stream: EventStream) -> None:
        super().__init__(headers=_HEADERS, media_type=EVENT_STREAM)
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the client disconnects or the stream ends."""
        gone = asyncio.ensure_future(wait_for_disconnect(receive))
        gone.add_done_callback(lambda _: self._stream.end())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async with aclosing(self._stream.chunks()) as chunks:
                    async for chunk in chunks:
                        await recheck(HTTPConnection(scope))
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except PlumblineError as error:
                problem = Problem(**problem_body(error, scope[REQUEST_ID])).model_dump_json(exclude_unset=True)
                event = f"event: problem\ndata: {problem}\n\n".encode()
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self._stream.close()
