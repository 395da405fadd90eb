"""Metrics of the export to an OpenTelemetry collector."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class OtelMetrics:
    """The metrics of the export. They exist only if a collector is configured.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.exports = Counter(
            "inspection_otel_exports_total",
            "Requests to the OpenTelemetry collector, by signal and outcome. A failed one is not repeated.",
            ["signal", "outcome"],
            registry=registry,
        )
        self.dropped = Counter(
            "inspection_otel_dropped_total",
            "Inspections without a trace because the queue of the export was full.",
            registry=registry,
        )
        for signal in ("traces", "metrics"):
            for outcome in ("sent", "failed"):
                self.exports.labels(signal, outcome)
