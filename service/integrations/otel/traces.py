"""Traces: a span per inspection, with a child span per stage.

Spans are made after the inspection was stored, on a thread of their own, from the times that were measured anyway.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from service.integrations.otel.context import context_of, parent_of
from service.monitoring.otel_metrics import OtelMetrics
from service.store.completed import Completed
from service.store.records import InspectionRecord
from service.version import VERSION

log = structlog.get_logger(__name__)

SPAN = "inspect"
QUEUE = 2048
"""Most inspections whose spans are not made yet. Further ones have no trace."""
STOP_S = 2.0
_STAGES = {
    "decode": "decode",
    "preprocess": "preprocess",
    "queue": "queue",
    "infer": "infer",
    "postprocess": "decide",
    "store": "store",
}


class _Ids(RandomIdGenerator):
    """Ids of spans: those of the next inspection, then random ones. Used by one thread."""

    def __init__(self) -> None:
        self.trace_id: int | None = None
        self.span_id: int | None = None

    def generate_trace_id(self) -> int:
        trace_id, self.trace_id = self.trace_id, None
        return super().generate_trace_id() if trace_id is None else trace_id

    def generate_span_id(self) -> int:
        span_id, self.span_id = self.span_id, None
        return super().generate_span_id() if span_id is None else span_id


class InspectionTracer:
    """Makes the spans of inspections and exports them in batches.

    Args:
        exporter: Sends spans to the collector.
        resource: Describes this service.
        metrics: Counts inspections without a trace.
    """

    def __init__(self, exporter: SpanExporter, resource: Resource, metrics: OtelMetrics) -> None:
        self._metrics = metrics
        self._ids = _Ids()
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("plumbline", VERSION)
        self._queue: queue.Queue[Completed | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._work, name="otel-traces", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def record(self, completed: Completed) -> None:
        """Make the spans of an inspection later. Returns at once; callable by any thread."""
        try:
            self._queue.put_nowait(completed)
        except queue.Full:
            self._metrics.dropped.inc()

    def traceparent(self, record: InspectionRecord) -> str:
        """Return the header that messages about an inspection carry, so that their receivers continue its trace."""
        return context_of(record, is_sampled=self._is_sampled(record)).header()

    def close(self) -> None:
        """Export what is pending, within a limited time."""
        # The exporter may wait for a collector that does not respond; these threads do not keep the process alive.
        end = threading.Thread(target=self._end, name="otel-traces-end", daemon=True)
        end.start()
        end.join(STOP_S)

    def _end(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._provider.shutdown()

    def _work(self) -> None:
        while (completed := self._queue.get()) is not None:
            try:
                self._make_spans(completed)
            except Exception:
                log.exception("spans not made", inspection=completed.record.id)

    def _make_spans(self, completed: Completed) -> None:
        record = completed.record
        own = context_of(record, is_sampled=True)
        self._ids.trace_id, self._ids.span_id = own.trace_id, own.span_id
        stages = list(_stages(completed))
        span = self._tracer.start_span(
            SPAN,
            _parent_context(record),
            kind=trace.SpanKind.SERVER,
            attributes=_attributes(record),
            start_time=stages[0][1],
        )
        # A parent's trace id is used instead of the generated one, which must not remain for the next span.
        self._ids.trace_id = self._ids.span_id = None
        within = trace.set_span_in_context(span, Context())
        for name, start_ns, end_ns in stages:
            self._tracer.start_span(name, within, start_time=start_ns).end(end_ns)
        span.end(completed.stored_ns)

    def _is_sampled(self, record: InspectionRecord) -> bool:
        context = _parent_context(record)
        trace_id = context_of(record, is_sampled=False).trace_id
        attributes = _attributes(record)
        result = self._provider.sampler.should_sample(context, trace_id, SPAN, trace.SpanKind.SERVER, attributes)
        return bool(result.decision.is_sampled())  # type: ignore[no-untyped-call]


def _parent_context(record: InspectionRecord) -> Context:
    parent = parent_of(record)
    if parent is None:
        return Context()
    span = trace.SpanContext(
        parent.trace_id, parent.span_id, is_remote=True, trace_flags=trace.TraceFlags(parent.flags)
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(span), Context())


def _attributes(record: InspectionRecord) -> dict[str, str | float]:
    attributes: dict[str, str | float | None] = {
        "plumbline.inspection.id": record.id,
        "plumbline.product": record.product,
        "plumbline.decision": record.decision,
        "plumbline.station": record.station,
        "plumbline.bundle.version": record.bundle_version,
        "plumbline.score": record.score,
        "plumbline.request_id": record.request_id,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _stages(completed: Completed) -> Iterator[tuple[str, int, int]]:
    """Yield name, start and end of each stage in nanoseconds since 1970, back to back until the inspection was stored.

    Only the durations were measured. Time between two stages is part of `wait`, which lies before the first one.
    """
    timings = completed.timings_s
    submitted_ns = completed.stored_ns - _ns(completed.duration_s)
    if completed.arrived is not None:
        yield "receive", submitted_ns - _ns(completed.submitted - completed.arrived), submitted_ns
    start_ns = max(submitted_ns, completed.stored_ns - _ns(sum(timings.values())))
    yield "wait", submitted_ns, start_ns
    for stage, name in _STAGES.items():
        if stage in timings:
            end_ns = min(start_ns + _ns(timings[stage]), completed.stored_ns)
            yield name, start_ns, end_ns
            start_ns = end_ns


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
