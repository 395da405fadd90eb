"""The outbox: messages to webhooks and MQTT brokers, and dead letters."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from service.api.deps import ActorDep, OutboxDep
from service.api.http.access import requires
from service.api.http.problems import problem_responses
from service.errors import InvalidRequest
from service.integrations.errors import SinkNotConfigured
from service.integrations.outbox import SinkSummary
from service.schemas.common import Name
from service.schemas.outbox import DeadLetter, DeadLetterCount, DeadLetterPage, OutboxStatus, SinkStatus
from service.store.errors import StoreUnavailable, UnknownDeadLetter
from service.store.outbox import DeadLetterFilter, OutboxMessage

router = APIRouter(prefix="/v1/outbox", tags=["outbox"])

MessagePath = Annotated[int, Path(ge=1, le=2**53, description="Id of the dead letter.")]
SinkQuery = Annotated[Name, Query(description="Name of the sink.")]
ProductQuery = Annotated[Name | None, Query(description="Only dead letters of this product.")]
_ERRORS = (InvalidRequest, StoreUnavailable)


@router.get("", operation_id="get_outbox", summary="Get the state of all sinks", responses=problem_responses(*_ERRORS))
@requires("engineer")
def read_outbox(outbox: OutboxDep) -> OutboxStatus:
    """Return every sink with the number of its pending messages and dead letters."""
    return OutboxStatus(sinks=[_to_status(sink) for sink in outbox.summary()])


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
    return DeadLetterPage(items=[_to_dead_letter(item) for item in page.items], next_cursor=page.next_cursor)


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


def _to_status(sink: SinkSummary) -> SinkStatus:
    return SinkStatus(
        name=sink.name,
        kind=sink.kind,  # type: ignore[arg-type]  # checked by pydantic
        target=sink.target,
        configured=sink.kind is not None,
        delivering=sink.state.is_delivering,
        pending=sink.backlog.pending,
        oldest_at=sink.backlog.oldest_at,
        dead_letters=sink.backlog.dead_letters,
        delivered_at=sink.state.delivered_at,
        failed_at=sink.state.failed_at,
        error=sink.state.error,
    )


def _to_dead_letter(message: OutboxMessage) -> DeadLetter:
    return DeadLetter(
        id=message.id,
        sink=message.sink,
        product=message.product,
        inspection_id=message.inspection_id,
        event_id=message.event_id,
        created_at=message.created_at,
        dead_at=message.dead_at,  # type: ignore[arg-type]  # a dead letter has both
        reason=message.dead_reason,  # type: ignore[arg-type]
        attempts=message.attempts,
        last_error=message.last_error,
    )
