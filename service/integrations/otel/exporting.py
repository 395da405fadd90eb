"""Export to a collector: what failed is counted, and only a change is logged."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from service.monitoring.otel_metrics import OtelMetrics

log = structlog.get_logger(__name__)


class ExportReport:
    """Counts the exports of a signal, and logs when they begin to fail and when they succeed again.

    Args:
        signal: `traces` or `metrics`.
        endpoint: The URL of the signal.
        metrics: Counts exports.
    """

    def __init__(self, signal: str, endpoint: str, metrics: OtelMetrics) -> None:
        self._signal = signal
        self._endpoint = endpoint
        self._metrics = metrics
        self._is_failing = False

    def __call__(self, is_sent: bool) -> None:
        """Report the outcome of an export."""
        self._metrics.exports.labels(self._signal, "sent" if is_sent else "failed").inc()
        if is_sent is not self._is_failing:
            return
        self._is_failing = not is_sent
        if is_sent:
            log.info("collector receives again", signal=self._signal)
        else:
            log.warning("collector does not receive", signal=self._signal, endpoint=self._endpoint)


class ReportedSpanExporter(SpanExporter):
    """An exporter whose outcomes are reported.

    Args:
        exporter: The exporter.
        report: Is called with the outcome of each export.
    """

    def __init__(self, exporter: SpanExporter, report: ExportReport) -> None:
        self._exporter = exporter
        self._report = report

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        result = self._exporter.export(spans)
        self._report(result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """End an export that waits for its next attempt."""
        self._exporter.shutdown()


def silence_library() -> None:
    """Do not log each failed attempt and each dropped span: `ExportReport` logs changes only."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
