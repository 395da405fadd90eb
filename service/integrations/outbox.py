"""The outbox for people: the state of sinks, and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from service.integrations.config import SinkConfig
from service.integrations.delivery import Sink, SinkState
from service.integrations.errors import SinkNotConfigured
from service.store.audit import Actor, AuditEntry
from service.store.outbox import DeadLetterFilter, Outbox, OutboxMessage, SinkBacklog

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SinkSummary:
    """A sink for people.

    Attributes:
        name: Name of the sink.
        kind: Kind of the sink; None if it is not configured.
        target: Host of the receiver; None if the sink is not configured.
        state: What this process did with it.
        backlog: Its messages.
    """

    name: str
    kind: str | None
    target: str | None
    state: SinkState
    backlog: SinkBacklog


@dataclass(frozen=True)
class DeadLetters:
    """One page of dead letters.

    Attributes:
        items: The dead letters, newest first.
        next_cursor: Id of the last one if more follow, otherwise None.
    """

    items: Sequence[OutboxMessage]
    next_cursor: int | None


class OutboxService:
    """Reads the outbox, and changes dead letters. Every method raises `StoreUnavailable` if the database fails.

    Args:
        outbox: The stored messages.
        sinks: The sinks with their configurations.
        states: Returns what each sink did since the service started.
        notify_resent: Called with the name of a sink after its dead letters became pending again.
    """

    def __init__(
        self,
        outbox: Outbox,
        sinks: Sequence[tuple[SinkConfig, Sink]] = (),
        states: Callable[[], Mapping[str, SinkState]] = dict,
        notify_resent: Callable[[str], None] = lambda _sink: None,
    ) -> None:
        self._outbox = outbox
        self._sinks = {config.name: (config, sink) for config, sink in sinks}
        self._states = states
        self._notify_resent = notify_resent

    def summary(self) -> list[SinkSummary]:
        """Return all sinks by name: the configured ones, and others that have messages."""
        backlogs, states = self._outbox.backlogs(), self._states()
        found = []
        for name in sorted(backlogs.keys() | self._sinks.keys()):
            config, sink = self._sinks.get(name, (None, None))
            found.append(
                SinkSummary(
                    name,
                    None if config is None else config.kind,
                    None if sink is None else sink.target,
                    states.get(name, SinkState()),
                    backlogs.get(name, SinkBacklog()),
                )
            )
        return found

    def dead_letters(self, which: DeadLetterFilter, before: int | None, limit: int) -> DeadLetters:
        """Return a page of dead letters, newest first.

        Args:
            which: The conditions.
            before: Return only dead letters with a smaller id.
            limit: Maximum number of dead letters.
        """
        # One more than requested shows whether another page follows.
        found = self._outbox.dead_letters(which, before=before, limit=limit + 1)
        is_last = len(found) <= limit
        return DeadLetters(found[:limit], None if is_last else found[limit - 1].id)

    def resend(self, message_id: int, actor: Actor) -> None:
        """Send a dead letter again.

        Args:
            message_id: Its id.
            actor: Who requests it.

        Raises:
            UnknownDeadLetter: There is no such dead letter.
            SinkNotConfigured: Its sink does not exist any more.
        """
        message = self._outbox.dead_letter(message_id)
        self._resend(message.sink, message.product, [message_id], actor)

    def resend_all(self, which: DeadLetterFilter, actor: Actor) -> int:
        """Send the dead letters of a sink again, and return their number.

        Args:
            which: The conditions; they must name a sink.
            actor: Who requests it.

        Raises:
            SinkNotConfigured: There is no such sink.
        """
        assert which.sink is not None
        return self._resend(which.sink, which.product, self._outbox.dead_letter_ids(which), actor)

    def discard(self, message_id: int, actor: Actor) -> None:
        """Delete a dead letter. Its inspection is kept.

        Args:
            message_id: Its id.
            actor: Who requests it.

        Raises:
            UnknownDeadLetter: There is no such dead letter.
        """
        message = self._outbox.dead_letter(message_id)
        self._discard(message.sink, message.product, [message_id], actor)

    def discard_all(self, which: DeadLetterFilter, actor: Actor) -> int:
        """Delete the dead letters of a sink, and return their number. Their inspections are kept.

        Args:
            which: The conditions; they must name a sink.
            actor: Who requests it.
        """
        assert which.sink is not None
        return self._discard(which.sink, which.product, self._outbox.dead_letter_ids(which), actor)

    def _resend(self, sink: str, product: str | None, ids: Sequence[int], actor: Actor) -> int:
        if sink not in self._sinks:
            raise SinkNotConfigured(sink)
        entry = AuditEntry(actor, "outbox:resend", product=product, object=sink)
        count = self._outbox.resend(ids, datetime.now(UTC), entry)
        log.info("dead letters sent again", sink=sink, count=count, by=actor.name)
        self._notify_resent(sink)
        return count

    def _discard(self, sink: str, product: str | None, ids: Sequence[int], actor: Actor) -> int:
        count = self._outbox.discard(ids, AuditEntry(actor, "outbox:discard", product=product, object=sink))
        log.info("dead letters discarded", sink=sink, count=count, by=actor.name)
        return count
