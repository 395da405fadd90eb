"""Metrics of the outbox, by sink. Sinks are named in a file of the administrator, so their number is small."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.schemas.outbox import DeadReason


class OutboxMetrics:
    """The metrics of the outbox.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.pending = Gauge(
            "inspection_outbox_pending",
            "Messages that are not delivered to a sink yet.",
            ["sink"],
            registry=registry,
        )
        self.oldest_age = Gauge(
            "inspection_outbox_oldest_age_seconds",
            "Age of the oldest message that is not delivered to a sink yet; 0 if there is none.",
            ["sink"],
            registry=registry,
        )
        self.dead_letters = Gauge(
            "inspection_outbox_dead_letters",
            "Messages to a sink that were given up, and neither sent again nor discarded.",
            ["sink"],
            registry=registry,
        )
        self.delivered = Counter(
            "inspection_outbox_delivered_total", "Messages delivered to a sink.", ["sink"], registry=registry
        )
        self.failed_attempts = Counter(
            "inspection_outbox_failed_attempts_total",
            "Attempts to deliver a message to a sink that failed.",
            ["sink"],
            registry=registry,
        )
        self.given_up = Counter(
            "inspection_outbox_given_up_total",
            "Messages to a sink that became dead letters, by reason.",
            ["sink", "reason"],
            registry=registry,
        )
        self.removed = Counter(
            "inspection_outbox_dead_letters_removed_total",
            "Dead letters of a sink that were deleted because their number exceeded the limit.",
            ["sink"],
            registry=registry,
        )

    def add_sinks(self, sinks: Iterable[str]) -> None:
        """Create the series of sinks."""
        for sink in sinks:
            for metric in (
                self.pending,
                self.oldest_age,
                self.dead_letters,
                self.delivered,
                self.failed_attempts,
                self.removed,
            ):
                metric.labels(sink)
            for reason in get_args(DeadReason):
                self.given_up.labels(sink, reason)
