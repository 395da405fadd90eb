"""The outbox: messages to webhooks and MQTT brokers, and dead letters."""

from __future__ import annotations

from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import Call, given
from plumbline_client.schemas.outbox import DeadLetterCount, DeadLetterPage, OutboxStatus

_DEAD_LETTERS = "/v1/outbox/dead-letters"


class AsyncOutboxCalls(AsyncConnection):
    """The part of `AsyncClient` that deals with messages to sinks."""

    async def outbox(self) -> OutboxStatus:
        """Return every sink with the number of its pending messages and dead letters."""
        return await self._load(OutboxStatus, Call("GET", "/v1/outbox"))

    async def dead_letters(
        self, *, sink: str | None = None, product: str | None = None, cursor: int | None = None, limit: int = 50
    ) -> DeadLetterPage:
        """Return a page of messages that were given up, newest first.

        Args:
            sink: Only messages to this sink.
            product: Only messages about this product.
            cursor: `next_cursor` of the previous page.
            limit: Largest number of messages.
        """
        params = {"limit": limit, **given({"sink": sink, "product": product, "cursor": cursor})}
        return await self._load(DeadLetterPage, Call("GET", _DEAD_LETTERS, params))

    async def resend_dead_letter(self, message_id: int) -> DeadLetterCount:
        """Send a dead letter again.

        Raises:
            ServiceProblem: There is no such dead letter, or its sink is not configured.
        """
        return await self._load(DeadLetterCount, Call("POST", f"{_DEAD_LETTERS}/{message_id}:resend"))

    async def discard_dead_letter(self, message_id: int) -> DeadLetterCount:
        """Delete a dead letter. Its inspection is kept.

        Raises:
            ServiceProblem: There is no such dead letter.
        """
        return await self._load(DeadLetterCount, Call("POST", f"{_DEAD_LETTERS}/{message_id}:discard"))

    async def resend_dead_letters(self, sink: str, *, product: str | None = None) -> DeadLetterCount:
        """Send all dead letters of a sink again.

        Args:
            sink: Name of the sink.
            product: Only those about this product.

        Raises:
            ServiceProblem: The sink is not configured.
        """
        params = {"sink": sink, **given({"product": product})}
        return await self._load(DeadLetterCount, Call("POST", f"{_DEAD_LETTERS}:resend", params))

    async def discard_dead_letters(self, sink: str, *, product: str | None = None) -> DeadLetterCount:
        """Delete all dead letters of a sink. Their inspections are kept.

        Args:
            sink: Name of the sink.
            product: Only those about this product.
        """
        params = {"sink": sink, **given({"product": product})}
        return await self._load(DeadLetterCount, Call("POST", f"{_DEAD_LETTERS}:discard", params))
