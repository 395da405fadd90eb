"""The outbox: messages to webhooks and MQTT brokers, and dead letters."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from service.api.deps import ActorDep, OutboxDep
from service.api.http.access import requires
from service.api.http.problems import problem_responses
from service.api.outbox_mapping import to_dead_letter, to_sink_status
from service.errors import InvalidRequest
from service.integrations.errors import SinkNotConfigured
from service.schemas.common import Name
from service.schemas.outbox import DeadLetterCount, DeadLetterPage, OutboxStatus
from service.store.errors import StoreUnavailable, UnknownDeadLetter
from service.store.outbox import DeadLetterFilter

router = APIRouter(prefix="/v1/outbox", tags=["outbox"])

MessagePath = Annotated[int, Path(ge=1, le=2**53, description="Id of the dead letter.")]
SinkQuery = Annotated[Name, Query(description="Name of the sink.")]
ProductQuery = Annotated[Name | None, Query(description="Only dead letters of this product.")]
_ERRORS = (InvalidRequest, StoreUnavailable)


@router.get("", operation_id="get_outbox", summary="Get the state of all sinks", responses=problem_responses(*_ERRORS))
@requires("engineer")
def read_outbox(outbox: OutboxDep) -> OutboxStatus:
    """Return every sink with the number of its pending messages and dead letters."""
    return OutboxStatus(sinks=[to_sink_status(sink) for sink in outbox.summary()])


@router.get(
    "/dead-letters",
    operation_id="list_dead_letters",
    summary="List dead letters",
    responses=problem_responses(*_ERRORS),
)
@requires("engineer")
def list_dead_letters(
    outbox: OutboxDep,
    sink: Annotated[Name | None, Query(description="Only dead letters of this sink.")] = None,
    product: ProductQuery = None,
    cursor: Annotated[int | None, Query(ge=1, le=2**53, description="`next_cursor` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Maximum number of dead letters on the page.")] = 50,
) -> DeadLetterPage:
    """Return messages that were given up, page by page, newest first."""
    page = outbox.dead_letters(DeadLetterFilter(sink, product), cursor, limit)
    return DeadLetterPage(items=[to_dead_letter(item) for item in page.items], next_cursor=page.next_cursor)


@router.post(
    "/dead-letters:resend",
    operation_id="resend_dead_letters",
    summary="Send all dead letters of a sink again",
    responses=problem_responses(*_ERRORS, SinkNotConfigured),
)
@requires("engineer")
def resend_dead_letters(
    outbox: OutboxDep, actor: ActorDep, sink: SinkQuery, product: ProductQuery = None
) -> DeadLetterCount:
    """Make the dead letters of a sink pending again. They are sent before later messages that are still pending."""
    return DeadLetterCount(count=outbox.resend_all(DeadLetterFilter(sink, product), actor))


@router.post(
    "/dead-letters:discard",
    operation_id="discard_dead_letters",
    summary="Discard all dead letters of a sink",
    responses=problem_responses(*_ERRORS),
)
@requires("engineer")
def discard_dead_letters(
    outbox: OutboxDep, actor: ActorDep, sink: SinkQuery, product: ProductQuery = None
) -> DeadLetterCount:
    """Delete the dead letters of a sink. Their inspections are kept."""
    return DeadLetterCount(count=outbox.discard_all(DeadLetterFilter(sink, product), actor))


@router.post(
    "/dead-letters/{message_id}:resend",
    operation_id="resend_dead_letter",
    summary="Send a dead letter again",
    responses=problem_responses(*_ERRORS, UnknownDeadLetter, SinkNotConfigured),
)
@requires("engineer")
def resend_dead_letter(message_id: MessagePath, outbox: OutboxDep, actor: ActorDep) -> DeadLetterCount:
    """Make a dead letter pending again. It is sent before later messages of its product that are still pending."""
    outbox.resend(message_id, actor)
    return DeadLetterCount(count=1)


@router.post(
    "/dead-letters/{message_id}:discard",
    operation_id="discard_dead_letter",
    summary="Discard a dead letter",
    responses=problem_responses(*_ERRORS, UnknownDeadLetter),
)
@requires("engineer")
def discard_dead_letter(message_id: MessagePath, outbox: OutboxDep, actor: ActorDep) -> DeadLetterCount:
    """Delete a dead letter. Its inspection is kept."""
    outbox.discard(message_id, actor)
    return DeadLetterCount(count=1)
