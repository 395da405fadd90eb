"""Map sinks and dead letters to the schemas of the API."""

from __future__ import annotations

from service.integrations.outbox import SinkSummary
from service.schemas.outbox import DeadLetter, SinkStatus
from service.store.outbox import OutboxMessage


def to_sink_status(sink: SinkSummary) -> SinkStatus:
    """Map a sink."""
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


def to_dead_letter(message: OutboxMessage) -> DeadLetter:
    """Map a message that was given up."""
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
