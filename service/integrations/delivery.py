"""What a sink is: it delivers one event at a time and reports how the attempt ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

Result = Literal["delivered", "unavailable", "rejected", "refused"]
"""How an attempt ended. `delivered`: the receiver confirmed it. `unavailable`: it was not reached, or has no capacity
at the moment. `rejected`: it answered with an error that may pass. `refused`: it answered with an error that does not
pass, so the message becomes a dead letter.
"""


@dataclass(frozen=True)
class Event:
    """An event, ready to be sent.

    Attributes:
        id: Id of the event, the same in every attempt.
        type: Type of the event.
        product: The product; None for a test.
        station: The station; None if it is not known.
        body: JSON document in UTF-8.
        traceparent: W3C trace context; None if the event belongs to no trace.
    """

    id: str
    type: Literal["inspection.created", "test"]
    product: str | None
    station: str | None
    body: bytes
    traceparent: str | None = None


@dataclass(frozen=True)
class Attempt:
    """The outcome of an attempt.

    Attributes:
        result: How it ended.
        detail: Why it failed, in plain words and without secrets.
        retry_after_s: Seconds that the receiver asks to wait for; None if it does not.
    """

    result: Result
    detail: str = ""
    retry_after_s: float | None = None


class Sink(Protocol):
    """A receiver of events. All methods run in one event loop."""

    @property
    def target(self) -> str:
        """Host and port of the receiver, for people. It contains no secrets."""

    async def open(self, on_available: Callable[[], None]) -> None:
        """Start. It does not wait for a connection.

        Args:
            on_available: Called when the receiver is reached again after it was not.
        """

    async def deliver(self, event: Event) -> Attempt:
        """Try once to deliver an event. It never raises and takes a limited time."""

    async def close(self) -> None:
        """Close all connections. Takes a limited time."""


@dataclass(frozen=True)
class SinkState:
    """What a sink did since the service started.

    Attributes:
        is_delivering: Whether this process delivers to the sink; otherwise another process does.
        delivered_at: When it delivered a message the last time; None if it did not.
        failed_at: When an attempt failed the last time; None if none did.
        error: Why the last attempt failed; None if it did not fail.
    """

    is_delivering: bool = False
    delivered_at: datetime | None = None
    failed_at: datetime | None = None
    error: str | None = None
