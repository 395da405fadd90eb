"""The thread that delivers the messages of the outbox, one per process.

It has an event loop of its own, so that a slow receiver never delays a request. Commits of inspections only set an
event for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from service.integrations.config import SinkConfig
from service.integrations.delivery import Sink, SinkState
from service.integrations.events import Render
from service.integrations.lanes import ResultT, SinkRunner
from service.monitoring.clock import Clock
from service.monitoring.outbox_metrics import OutboxMetrics
from service.schemas.outbox import DeadReason
from service.store.errors import StoreUnavailable
from service.store.outbox import Outbox, SinkBacklog
from service.store.sink_lease import SinkLeases

log = structlog.get_logger(__name__)

POLL_S = 2.0
"""Seconds between two searches for messages that other processes stored, and for sinks that they released."""
MAINTENANCE_S = 5.0
CONFIRM_S = 0.25
"""Seconds in which delivered messages are collected before they are deleted in one transaction."""
GRACE_S = 2.0
STOP_S = 8.0
"""Longest time that `close` takes. It is shorter than what remains for it when the service stops."""
# Messages do not become dead letters for their age in this time after the clock jumped.
_CLOCK_SETTLE_S = 3600.0


@dataclass(frozen=True)
class OutboxLimits:
    """Limits of the messages of one sink.

    Attributes:
        pending: Most pending messages.
        dead_letters: Most dead letters.
    """

    pending: int
    dead_letters: int


class OutboxWorker:
    """Delivers the messages of all sinks.

    Args:
        sinks: The sinks with their configurations.
        outbox: The stored messages.
        leases: Which sinks this process delivers to.
        render: What messages say about an inspection.
        metrics: Counts deliveries.
        limits: Limits of the stored messages.
        clock: The time of day.
    """

    def __init__(
        self,
        sinks: Sequence[tuple[SinkConfig, Sink]],
        outbox: Outbox,
        leases: SinkLeases,
        render: Render,
        metrics: OutboxMetrics,
        limits: OutboxLimits,
        clock: Clock,
    ) -> None:
        self._sinks = tuple(sinks)
        self._outbox = outbox
        self._leases = leases
        self._render = render
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="outbox-store")
        # A thread of their own: they may wait for a server, and only one thread at a time may use them.
        self._lease_thread = ThreadPoolExecutor(1, thread_name_prefix="outbox-leases")
        self._loop = asyncio.SelectorEventLoop()  # aiomqtt needs it on Windows
        self._runners: dict[str, SinkRunner] = {}
        self._reported: set[str] = set()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        metrics.add_sinks(config.name for config, _ in self._sinks)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop to deliver, within a limited time. What is pending is delivered after the next start."""
        if self._thread.is_alive():
            self._call(self._stop.set)
            self._thread.join(STOP_S)
            if self._thread.is_alive():
                log.warning("outbox not stopped in time")
        elif not self._loop.is_closed():
            self._loop.close()

    def notify(self, lanes: Collection[tuple[str, str]]) -> None:
        """Report new messages by pairs of sink and product. Returns at once; callable by any thread."""
        self._call(lambda: self._wake(lanes))

    def notify_resent(self, sink: str) -> None:
        """Report that dead letters of a sink are pending again. Callable by any thread."""

        async def search() -> None:
            if (runner := self._runners.get(sink)) is not None and runner.is_active:
                runner.resent()
                await self._find(runner)

        with contextlib.suppress(RuntimeError):  # the loop is closed
            asyncio.run_coroutine_threadsafe(search(), self._loop)

    def states(self) -> Mapping[str, SinkState]:
        """Return what each sink did since the service started."""
        runners = self._runners
        return {
            config.name: replace(runners[config.name].state, is_delivering=runners[config.name].is_active)
            if config.name in runners
            else SinkState()
            for config, _ in self._sinks
        }

    def _call(self, callback: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback)

    def _wake(self, lanes: Collection[tuple[str, str]]) -> None:
        for sink, product in lanes:
            if (runner := self._runners.get(sink)) is not None:
                runner.wake(product)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        except Exception:  # without deliveries, inspections continue; the alert for old messages fires
            log.exception("outbox ended")
        finally:
            self._loop.close()
            # The database is closed afterwards, so nothing may use it any more.
            self._store_thread.shutdown(cancel_futures=True)
            self._lease_thread.submit(self._leases.release)  # begins when a request for leases has ended
            self._lease_thread.shutdown()

    async def _main(self) -> None:
        self._runners = {
            config.name: SinkRunner(config, sink, self._outbox, self._run, self._render, self._metrics, self._clock)
            for config, sink in self._sinks
        }
        jobs = [
            asyncio.create_task(self._repeat(self._poll, POLL_S)),
            asyncio.create_task(self._repeat(self._maintain, MAINTENANCE_S)),
            asyncio.create_task(self._repeat(self._confirm, CONFIRM_S)),
        ]
        await self._stop.wait()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await asyncio.gather(*(runner.stop(GRACE_S) for runner in self._runners.values()), return_exceptions=True)
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            await asyncio.wait_for(self._confirm(), GRACE_S)

    async def _repeat(self, job: Callable[[], Awaitable[None]], interval_s: float) -> None:
        while True:
            try:
                await job()
            except StoreUnavailable as error:
                log.warning("outbox not available", reason=error.reason)
                await asyncio.sleep(POLL_S)
            except Exception:  # the next run may succeed
                log.exception("work on the outbox failed")
            await asyncio.sleep(interval_s)

    async def _poll(self) -> None:
        held = await self._loop.run_in_executor(self._lease_thread, self._leases.hold, list(self._runners))
        for name, runner in self._runners.items():
            if name in held and not runner.is_active:
                await runner.start()
                log.info("delivering to sink", sink=name, target=runner.sink.target)
            elif name not in held and runner.is_active:
                log.warning("another process may deliver to the sink now", sink=name)
                await runner.stop(0.0)
            if runner.is_active:
                await self._find(runner)

    async def _find(self, runner: SinkRunner) -> None:
        for product in await self._run(lambda: self._outbox.products(runner.name)):
            runner.wake(product)

    async def _confirm(self) -> None:
        """Delete delivered messages."""
        delivered = [message_id for runner in self._runners.values() for message_id in runner.take_unconfirmed()]
        if delivered:
            await self._run(lambda: self._outbox.remove(delivered))
            for runner in self._runners.values():
                runner.confirm(set(delivered))

    async def _maintain(self) -> None:
        """Enforce the limits of number and age, and measure the backlog."""
        now = self._clock.now()
        for runner in self._runners.values():
            if runner.is_active:
                await self._enforce(runner, now)
        backlogs = await self._run(self._outbox.backlogs)
        for name in self._runners:
            backlog = backlogs.get(name, SinkBacklog())
            age_s = 0.0 if backlog.oldest_at is None else max((now - backlog.oldest_at).total_seconds(), 0.0)
            self._metrics.pending.labels(name).set(backlog.pending)
            self._metrics.oldest_age.labels(name).set(age_s)
            self._metrics.dead_letters.labels(name).set(backlog.dead_letters)
        for name in backlogs.keys() - self._runners.keys() - self._reported:
            self._reported.add(name)
            log.warning("messages to a sink that is not configured", sink=name, pending=backlogs[name].pending)

    async def _enforce(self, runner: SinkRunner, now: datetime) -> None:
        """Give up the messages of a sink that exceed a limit."""
        sink, limits = runner.name, self._limits
        since_jump_s = self._clock.seconds_since_jump()
        if since_jump_s is None or since_jump_s > _CLOCK_SETTLE_S:
            oldest = now - timedelta(hours=runner.config.max_age_h)
            count = await self._run(lambda: self._outbox.bury_expired(sink, oldest, now))
            self._report_given_up(sink, "age", count)
        count = await self._run(lambda: self._outbox.bury_surplus(sink, limits.pending, now))
        self._report_given_up(sink, "full", count)
        count = await self._run(lambda: self._outbox.trim_dead_letters(sink, limits.dead_letters))
        if count:
            self._metrics.removed.labels(sink).inc(count)
            log.error("oldest dead letters deleted", sink=sink, count=count, limit=limits.dead_letters)

    def _report_given_up(self, sink: str, reason: DeadReason, count: int) -> None:
        if count:
            self._metrics.given_up.labels(sink, reason).inc(count)
            log.error("messages became dead letters", sink=sink, reason=reason, count=count)

    async def _run(self, work: Callable[[], ResultT]) -> ResultT:
        return await self._loop.run_in_executor(self._store_thread, work)
