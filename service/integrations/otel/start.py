"""Construct the export to an OpenTelemetry collector. The libraries are imported only if one is configured."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from service.integrations.otel.options import OtelOptions, read_options
from service.monitoring.otel_metrics import OtelMetrics
from service.settings import Settings
from service.store.completed import Completed
from service.store.records import InspectionRecord
from service.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from service.integrations.otel.metrics import RegistryExporter
    from service.integrations.otel.traces import InspectionTracer

SERVICE_NAME = "plumbline"


class Telemetry:
    """The export of traces and metrics.

    Args:
        options: Where they are sent.
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, options: OtelOptions, registry: CollectorRegistry) -> None:
        from service.integrations.otel.exporting import silence_library

        silence_library()
        resource, metrics = make_resource(), OtelMetrics(registry)
        self._tracer = _make_tracer(options.traces, resource, metrics) if options.traces else None
        self._metrics = _make_exporter(options, registry, resource, metrics) if options.metrics else None

    def start(self) -> None:
        """Start the threads."""
        if self._tracer is not None:
            self._tracer.start()
        if self._metrics is not None:
            self._metrics.start()

    def record(self, completed: Completed) -> None:
        """Export the trace of an inspection later. Returns at once."""
        if self._tracer is not None:
            self._tracer.record(completed)

    def traceparent(self, record: InspectionRecord) -> str | None:
        """Return the header `traceparent` of messages about an inspection; None if it belongs to no trace."""
        return record.traceparent if self._tracer is None else self._tracer.traceparent(record)

    def close(self) -> None:
        """Export what is pending, within a limited time."""
        if self._tracer is not None:
            self._tracer.close()
        if self._metrics is not None:
            self._metrics.close()


def open_telemetry(settings: Settings, registry: CollectorRegistry) -> Telemetry | None:
    """Return the export, which is not started yet; None if no collector is configured.

    Raises:
        CannotStart: The settings cannot be put into effect.
    """
    options = read_options(settings)
    return None if options is None else Telemetry(options, registry)


def make_resource() -> Resource:
    """Return the description of this service. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` have precedence."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = {
        "service.name": SERVICE_NAME,
        "service.version": VERSION,
        "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
    }
    return Resource.create(own).merge(OTELResourceDetector().detect())


def _make_tracer(url: str, resource: Resource, metrics: OtelMetrics) -> InspectionTracer:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from service.integrations.otel.exporting import ExportReport, ReportedSpanExporter
    from service.integrations.otel.traces import InspectionTracer

    exporter = ReportedSpanExporter(OTLPSpanExporter(url), ExportReport("traces", url, metrics))
    return InspectionTracer(exporter, resource, metrics)


def _make_exporter(
    options: OtelOptions, registry: CollectorRegistry, resource: Resource, metrics: OtelMetrics
) -> RegistryExporter:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    from service.integrations.otel.exporting import ExportReport
    from service.integrations.otel.metrics import RegistryExporter

    url = options.metrics
    assert url is not None, "metrics are not exported"
    report = ExportReport("metrics", url, metrics)
    return RegistryExporter(registry, OTLPMetricExporter(url), resource, options.interval_s, report)
