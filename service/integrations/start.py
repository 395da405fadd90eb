"""Construct the integrations of a service from its settings."""

from __future__ import annotations

from pathlib import Path

from service.integrations.config import SinkConfig, read_sinks
from service.integrations.delivery import Sink
from service.integrations.events import Render
from service.integrations.outbox import OutboxService
from service.integrations.sinks import make_sink
from service.integrations.worker import OutboxLimits, OutboxWorker
from service.monitoring.clock import Clock
from service.monitoring.outbox_metrics import OutboxMetrics
from service.settings import Settings
from service.store.outbox import Outbox, OutboxFeed
from service.store.sink_lease import SinkLeases
from service.store.store import Store

Sinks = tuple[tuple[SinkConfig, Sink], ...]


def open_sinks(path: Path | None) -> Sinks:
    """Return the sinks that a file configures, with their secrets. Nothing is connected yet.

    Raises:
        SinksInvalid: The file, a secret or a certificate cannot be used, or an optional package is not installed.
    """
    return tuple((config, make_sink(config)) for config in read_sinks(path))


class Integrations:
    """Everything that sends inspections to sinks. Without a sink it costs nothing.

    Args:
        settings: Limits of the outbox.
        store: The store; its writer adds messages from now on.
        sinks: The sinks.
        render: What messages say about an inspection.
        metrics: Counts deliveries.
        clock: The time of day.

    Attributes:
        service: Reads the outbox, and changes dead letters.
    """

    def __init__(
        self, settings: Settings, store: Store, sinks: Sinks, render: Render, metrics: OutboxMetrics, clock: Clock
    ) -> None:
        # SQLite has one writer at a time; see `GroupWriter.between_commits`.
        outbox = Outbox(store.engine, None if store.is_shared else store.writer.between_commits)
        self._worker: OutboxWorker | None = None
        if not sinks:
            self.service = OutboxService(outbox)
            return
        limits = OutboxLimits(settings.outbox_limit, settings.outbox_dead_letter_limit)
        leases = SinkLeases(store.engine)
        worker = self._worker = OutboxWorker(sinks, outbox, leases, render, metrics, limits, clock)
        store.writer.feed = OutboxFeed([config.subscription for config, _ in sinks], worker.notify)
        self.service = OutboxService(outbox, sinks, worker.states, worker.notify_resent)

    def start(self) -> None:
        """Start to deliver."""
        if self._worker is not None:
            self._worker.start()

    def close(self) -> None:
        """Stop to deliver, within a limited time."""
        if self._worker is not None:
            self._worker.close()
