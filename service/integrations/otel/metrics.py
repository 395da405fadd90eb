"""Metrics over OTLP: the values of the Prometheus registry, converted when they are exported.

Nothing is counted twice: a request to the collector contains what `/metrics` returns at the same time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import structlog
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from service.integrations.otel.exporting import ExportReport
from service.version import VERSION

log = structlog.get_logger(__name__)

STOP_S = 2.0
_CUMULATIVE = AggregationTemporality.CUMULATIVE
Labels = tuple[tuple[str, str], ...]


class RegistryExporter:
    """Exports the values of a registry periodically, in a thread.

    Args:
        registry: The registry that `/metrics` exposes.
        exporter: Sends metrics to the collector.
        resource: Describes this service.
        interval_s: Seconds between two exports.
        report: Is called with the outcome of each export.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        exporter: MetricExporter,
        resource: Resource,
        interval_s: float,
        report: ExportReport,
    ) -> None:
        self._registry = registry
        self._exporter = exporter
        self._resource = resource
        self._interval_s = interval_s
        self._report = report
        self._started_ns = time.time_ns()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="otel-metrics", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Export the last values, within a limited time."""
        self._stop.set()
        self._thread.join(STOP_S)
        # Ends an export that waits for its next attempt.
        self._exporter.shutdown()

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stop.wait(self._interval_s)
            try:
                result = self._exporter.export(self._collect())
            except Exception:
                log.exception("metrics not exported")
                continue
            self._report(result is MetricExportResult.SUCCESS)

    def _collect(self) -> MetricsData:
        metrics = list(convert(self._registry.collect(), self._started_ns, time.time_ns()))
        scope = ScopeMetrics(InstrumentationScope("plumbline", VERSION), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


def convert(families: Iterable[Family], started_ns: int, now_ns: int) -> Iterator[Metric]:
    """Yield Prometheus metrics as OpenTelemetry metrics.

    A counter keeps its name without `_total`, as the OpenTelemetry specification defines it for Prometheus metrics.

    Args:
        families: The metrics of a registry.
        started_ns: Since when counters count, in nanoseconds since 1970.
        now_ns: The time of the values.
    """
    for family in families:
        data: Any
        if family.type == "histogram":
            data = Histogram(_histograms(family.samples, started_ns, now_ns), _CUMULATIVE)
        else:
            is_counter = family.type == "counter"
            points = [
                NumberDataPoint(sample.labels, started_ns if is_counter else 0, now_ns, sample.value)
                for sample in family.samples
                if not is_counter or sample.name.endswith("_total")
            ]
            data = Sum(points, _CUMULATIVE, is_monotonic=True) if is_counter else Gauge(points)
        if data.data_points:
            yield Metric(family.name, family.documentation, "", data)


def _histograms(samples: Iterable[Sample], started_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    """Return one data point per set of labels. Prometheus buckets are cumulative, those of OpenTelemetry are not."""
    buckets: dict[Labels, dict[float, float]] = {}
    sums: dict[Labels, float] = {}
    for sample in samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        if sample.name.endswith("_bucket"):
            buckets.setdefault(labels, {})[float(sample.labels["le"])] = sample.value
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    points = []
    for labels, by_bound in buckets.items():
        bounds = sorted(by_bound)
        cumulative = [0.0, *(by_bound[bound] for bound in bounds)]
        points.append(
            HistogramDataPoint(
                attributes=dict(labels),
                start_time_unix_nano=started_ns,
                time_unix_nano=now_ns,
                count=int(cumulative[-1]),
                sum=sums.get(labels, 0.0),
                bucket_counts=[int(upper - lower) for lower, upper in pairwise(cumulative)],
                explicit_bounds=bounds[:-1],  # the last one is infinite
                min=None,  # type: ignore[arg-type]  # optional in the protocol; Prometheus has no minimum and maximum
                max=None,  # type: ignore[arg-type]
            )
        )
    return points
