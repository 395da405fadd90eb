"""Delivery to one sink, with one lane per product: a message that waits for its next attempt blocks only its product.

A lane sends one message at a time, the oldest first. A message that failed is sent again before the ones after it,
until it is delivered or becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, TypeVar

import structlog

from service.integrations.backoff import delay_s
from service.integrations.config import SinkConfig
from service.integrations.delivery import Attempt, Sink, SinkState
from service.integrations.events import Render, inspection_event
from service.integrations.webhook import MAX_RETRY_AFTER_S
from service.monitoring.clock import Clock
from service.monitoring.outbox_metrics import OutboxMetrics
from service.schemas.outbox import DeadReason
from service.store.errors import StoreUnavailable
from service.store.outbox import Outbox, OutboxMessage
from service.store.records import InspectionRecord

log = structlog.get_logger(__name__)

BATCH = 20
"""Messages that a lane reads at a time."""
MAX_UNCONFIRMED = 1000
"""Most messages of a sink that are delivered but not deleted yet; they would be sent again after a crash."""
_DATABASE_PAUSE_S = 2.0
_MISSING = "the inspection is no longer stored"
_UNEXPECTED = "unexpected failure; see the log"
ResultT = TypeVar("ResultT")


class RunBlocking(Protocol):
    """Runs a function that blocks on another thread."""

    async def __call__(self, work: Callable[[], ResultT]) -> ResultT:
        """Return the result of the function."""


@dataclass
class _Lane:
    """The messages of one product.

    Attributes:
        wake: Set if there may be new messages, or if waiting should end.
        unconfirmed: Ids of messages that are delivered but not deleted yet.
        failures: Failed attempts in a row.
        not_before: When the next attempt may begin, on the clock `time.monotonic`; None if the lane has not failed.
        is_asked_to_wait: Whether the receiver named the time.
        task: The task that delivers.
    """

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    unconfirmed: set[int] = field(default_factory=set)
    failures: int = 0
    not_before: float | None = None
    is_asked_to_wait: bool = False
    task: asyncio.Task[None] | None = None


class SinkRunner:
    """Delivers the messages of one sink. Everything runs in one event loop, except what `run` is given.

    Args:
        config: The configuration of the sink.
        sink: The sink.
        outbox: The stored messages.
        run: Runs a function that blocks on another thread.
        render: What messages say about an inspection.
        metrics: Counts deliveries.
        clock: The time of day.

    Attributes:
        state: What the sink did since the service started.
        is_active: Whether this process delivers to the sink.
    """

    def __init__(
        self,
        config: SinkConfig,
        sink: Sink,
        outbox: Outbox,
        run: RunBlocking,
        render: Render,
        metrics: OutboxMetrics,
        clock: Clock,
    ) -> None:
        self.config = config
        self.sink = sink
        self.state = SinkState()
        self.is_active = False
        self._outbox = outbox
        self._run = run
        self._render = render
        self._metrics = metrics
        self._clock = clock
        self._lanes: dict[str, _Lane] = {}
        self._slots = asyncio.Semaphore(config.concurrency)
        self._is_stopping = False

    @property
    def name(self) -> str:
        """Name of the sink."""
        return self.config.name

    async def start(self) -> None:
        """Open the sink. Messages are delivered when `wake` is called."""
        if not self.is_active:
            self._is_stopping = False
            await self.sink.open(self.try_at_once)
            self.is_active = True

    async def stop(self, grace_s: float) -> None:
        """Stop to deliver and close the sink.

        Args:
            grace_s: Time in which lanes that do not wait for a failed attempt may deliver what is pending.
        """
        if not self.is_active:
            return
        self.is_active, self._is_stopping = False, True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for lane in self._lanes.values():
            lane.wake.set()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self.sink.close()

    def wake(self, product: str) -> None:
        """Look for messages of a product."""
        if not self.is_active:
            return
        lane = self._lanes.setdefault(product, _Lane())
        if lane.task is None:
            lane.task = asyncio.create_task(self._deliver_all(product, lane))
        elif lane.not_before is None:
            lane.wake.set()

    def try_at_once(self) -> None:
        """End all waiting for the next attempt, except where the receiver named the time."""
        for lane in self._lanes.values():
            if lane.not_before is not None and not lane.is_asked_to_wait:
                lane.not_before = time.monotonic()
                lane.wake.set()

    def resent(self) -> None:
        """End all waiting for the next attempt: dead letters were sent again on request."""
        for lane in self._lanes.values():
            lane.is_asked_to_wait = False
        self.try_at_once()

    def take_unconfirmed(self) -> list[int]:
        """Return the ids of messages that are delivered but not deleted yet."""
        return [message_id for lane in self._lanes.values() for message_id in lane.unconfirmed]

    def confirm(self, ids: set[int]) -> None:
        """Report that delivered messages are deleted."""
        for product, lane in list(self._lanes.items()):
            lane.unconfirmed -= ids
            if lane.task is None and not lane.unconfirmed:
                del self._lanes[product]

    async def _deliver_all(self, product: str, lane: _Lane) -> None:
        """Deliver the messages of a lane until there are none."""
        try:
            while not (self._is_stopping and lane.failures):
                lane.wake.clear()
                try:
                    if not await self._deliver_batch(product, lane) and not lane.wake.is_set():
                        return
                except StoreUnavailable as error:
                    log.warning("outbox not available", sink=self.name, reason=error.reason)
                    await self._pause(lane, _DATABASE_PAUSE_S)
        except Exception:  # a defect must not end the delivery: the next poll starts the lane again
            log.exception("delivery failed", sink=self.name, product=product)
        finally:
            lane.task = None
            if not lane.unconfirmed:
                self._lanes.pop(product, None)

    async def _deliver_batch(self, product: str, lane: _Lane) -> bool:
        """Read the oldest messages and deliver them until one fails; return whether there were any."""
        if len(lane.unconfirmed) >= MAX_UNCONFIRMED:  # the database refuses to delete messages
            await self._pause(lane, _DATABASE_PAUSE_S)
            return True
        # A copy: a message may be deleted and confirmed after the database has read it.
        delivered = frozenset(lane.unconfirmed)
        read = await self._run(lambda: self._outbox.pending(self.name, product, BATCH + len(delivered)))
        found = [item for item in read if item[0].id not in delivered]
        if found and await self._wait_for_turn(lane, found[0][0]):
            return True  # meanwhile another message may have become the oldest
        for message, record in found:
            if not await self._deliver(lane, message, record):
                break
        return bool(found)

    async def _wait_for_turn(self, lane: _Lane, message: OutboxMessage) -> bool:
        """Wait for the time of the next attempt; return whether it was necessary."""
        if not lane.failures and message.next_attempt_at is not None:
            # An attempt failed before this process took over. The delay is bounded: the clock may have been set.
            remaining_s = (message.next_attempt_at - self._clock.now()).total_seconds()
            longest_s = max(self.config.backoff_max_s, MAX_RETRY_AFTER_S)
            lane.failures = max(message.attempts, 1)
            lane.not_before = time.monotonic() + min(max(remaining_s, 0.0), longest_s)
        if lane.not_before is None:
            return False
        while (remaining_s := lane.not_before - time.monotonic()) > 0 and not self._is_stopping:
            lane.wake.clear()
            await self._pause(lane, remaining_s)
        lane.not_before = None
        return True

    async def _deliver(self, lane: _Lane, message: OutboxMessage, record: InspectionRecord | None) -> bool:
        """Try once to deliver a message; return whether the next one may follow."""
        if record is None:
            await self._bury(lane, message, "missing", _MISSING)
            return True
        attempt = await self._attempt(message, record)
        if attempt.result == "delivered":
            self._delivered(lane, message)
            return True
        self._failed(attempt)
        is_rejected = attempt.result == "rejected"
        if attempt.result == "refused":
            await self._bury(lane, message, "refused", attempt.detail)
        elif is_rejected and message.rejections + 1 >= self.config.max_attempts:
            await self._bury(lane, message, "attempts", attempt.detail)
        else:
            await self._postpone(lane, message, attempt, is_rejected=is_rejected)
            return False
        return True

    async def _attempt(self, message: OutboxMessage, record: InspectionRecord) -> Attempt:
        """Try once to deliver a message. A defect counts as a rejection, so that it does not block later messages."""
        try:
            event = inspection_event(message, record, self._render, self.config)
            async with self._slots:
                return await self.sink.deliver(event)
        except Exception:
            log.exception("delivery failed unexpectedly", sink=self.name, product=message.product, message=message.id)
            return Attempt("rejected", _UNEXPECTED)

    async def _postpone(self, lane: _Lane, message: OutboxMessage, attempt: Attempt, *, is_rejected: bool) -> None:
        lane.failures += 1
        wait_s = delay_s(lane.failures, self.config.backoff_base_s, self.config.backoff_max_s)
        lane.is_asked_to_wait = attempt.retry_after_s is not None
        wait_s = max(wait_s, attempt.retry_after_s or 0.0)
        lane.not_before = time.monotonic() + wait_s
        next_attempt_at = self._clock.now() + timedelta(seconds=wait_s)
        await self._run(
            lambda: self._outbox.postpone(message, attempt.detail, next_attempt_at, is_rejected=is_rejected)
        )

    async def _bury(self, lane: _Lane, message: OutboxMessage, reason: DeadReason, detail: str) -> None:
        moment = self._clock.now()
        await self._run(lambda: self._outbox.bury(message, reason, detail, moment))
        lane.failures = 0
        self._metrics.given_up.labels(self.name, reason).inc()
        log.error(
            "message became a dead letter",
            sink=self.name,
            product=message.product,
            inspection=message.inspection_id,
            message=message.id,
            reason=reason,
            error=detail,
        )

    def _delivered(self, lane: _Lane, message: OutboxMessage) -> None:
        lane.unconfirmed.add(message.id)
        lane.failures = 0
        self._metrics.delivered.labels(self.name).inc()
        if self.state.error is not None:
            log.info("sink available again", sink=self.name)
            self.try_at_once()
        self.state = SinkState(True, self._clock.now(), self.state.failed_at, None)

    def _failed(self, attempt: Attempt) -> None:
        self._metrics.failed_attempts.labels(self.name).inc()
        if self.state.error != attempt.detail:  # once per reason, not per attempt
            log.warning("sink does not accept messages", sink=self.name, result=attempt.result, reason=attempt.detail)
        self.state = SinkState(True, self.state.delivered_at, self._clock.now(), attempt.detail)

    async def _pause(self, lane: _Lane, seconds: float) -> None:
        try:
            await asyncio.wait_for(lane.wake.wait(), seconds)
        except TimeoutError:
            return
