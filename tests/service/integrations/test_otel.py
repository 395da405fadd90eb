"""Traces and metrics with a collector in this process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from structlog.testing import capture_logs
from websockets.sync.client import connect

from service.errors import CannotStart
from service.integrations.otel.options import read_options
from service.integrations.otel.start import make_resource
from service.settings import Settings
from service.version import VERSION
from tests.running_service import GOOD, RunningService, Serve, run_service
from tests.service.integrations.collector import Collector, attributes, run_collector, wait_for

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with run_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(
    collector: Collector, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        environment.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
        environment.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20token")
        environment.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=line-4")
        with run_service(tiny_models, tmp_path_factory.mktemp("data"), otel_endpoint=collector.url) as service:
            yield service


def spans_of(collector: Collector, inspection_id: str) -> tuple[Span, list[Span]]:
    """Return the span of an inspection and its children, in the order of their start."""

    def found() -> list[Span]:
        return [
            span
            for span in collector.named("inspect")
            if attributes(span.attributes)["plumbline.inspection.id"] == inspection_id
        ]

    wait_for(lambda: bool(found()))
    (span,) = found()
    children = [other for other in collector.spans if other.parent_span_id == span.span_id]
    return span, sorted(children, key=lambda child: child.start_time_unix_nano)


def test_an_inspection_continues_the_trace_of_its_request(traced: RunningService, collector: Collector) -> None:
    before = time.time_ns()
    body = traced.inspect(params={"station": "A"}, headers={"traceparent": SAMPLED}).json()
    span, children = spans_of(collector, body["id"])
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    found = attributes(span.attributes)
    assert found["plumbline.product"] == "widget"
    assert found["plumbline.decision"] == "pass"
    assert found["plumbline.station"] == "A"
    assert re.fullmatch("[0-9a-f]{12}", found["plumbline.bundle.version"])
    names = [child.name for child in children]
    assert names == ["receive", "wait", "decode", "preprocess", "queue", "infer", "decide", "store"]
    assert {child.trace_id.hex() for child in children} == {TRACE}
    assert before <= span.start_time_unix_nano <= children[0].start_time_unix_nano
    for child, following in pairwise(children):
        assert child.end_time_unix_nano == following.start_time_unix_nano
    assert children[-1].end_time_unix_nano <= span.end_time_unix_nano <= time.time_ns()
    assert collector.headers["authorization"] == "Bearer token"


def test_an_inspection_without_a_trace_begins_one(traced: RunningService, collector: Collector) -> None:
    ids = [traced.inspect().json()["id"] for _ in range(2)]
    spans = [spans_of(collector, inspection_id)[0] for inspection_id in ids]
    assert [span.parent_span_id for span in spans] == [b"", b""]
    assert [span.trace_id.hex() for span in spans] == [inspection_id.replace("-", "") for inspection_id in ids]


def test_a_trace_that_is_not_recorded_is_not_exported(traced: RunningService, collector: Collector) -> None:
    quiet = traced.inspect(headers={"traceparent": NOT_SAMPLED}).json()["id"]
    spans_of(collector, traced.inspect().json()["id"])
    ids = {attributes(span.attributes)["plumbline.inspection.id"] for span in collector.named("inspect")}
    assert quiet not in ids


@pytest.mark.parametrize(
    "header", ["", "00-0", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01"]
)
def test_an_invalid_trace_context_is_ignored(traced: RunningService, collector: Collector, header: str) -> None:
    response = traced.inspect(headers={"traceparent": header})
    assert "traceparent" not in response.headers
    span, _ = spans_of(collector, response.json()["id"])
    assert span.parent_span_id == b""


def test_frames_of_a_stream_continue_the_trace_of_its_handshake(traced: RunningService, collector: Collector) -> None:
    url = f"ws://127.0.0.1:{traced.port}/v1/products/widget/stream"
    with connect(url, additional_headers={"traceparent": SAMPLED}) as stream:
        stream.send('{"type": "hello"}')
        stream.recv()
        stream.send(GOOD)
        inspection = json.loads(stream.recv())["inspection"]
    span, children = spans_of(collector, inspection["id"])
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert children[0].name == "wait"


def test_messages_about_an_inspection_name_its_span(traced: RunningService, collector: Collector) -> None:
    telemetry = traced.runtime.interfaces.telemetry
    assert telemetry is not None
    for header in ({"traceparent": SAMPLED}, {}):
        inspection_id = traced.inspect(headers=header).json()["id"]
        span, _ = spans_of(collector, inspection_id)
        record = traced.services.inspections.get(inspection_id)
        assert telemetry.traceparent(record) == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
    record = traced.services.inspections.get(traced.inspect(headers={"traceparent": NOT_SAMPLED}).json()["id"])
    quiet = telemetry.traceparent(record)
    assert quiet is not None
    assert quiet.startswith(f"00-{TRACE}-")
    assert quiet.endswith("-00")


def test_the_resource_describes_the_service(traced: RunningService, collector: Collector) -> None:
    spans_of(collector, traced.inspect().json()["id"])
    resource = collector.resources[-1]
    assert resource["service.name"] == "plumbline"
    assert resource["service.version"] == VERSION
    assert resource["deployment.environment.name"] == "line-4"


def test_standard_variables_have_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "line-4")
    assert make_resource().attributes["service.name"] == "line-4"
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://metrics:1/x")
    options = read_options(Settings(otel_endpoint="http://collector:4318/"))
    assert options is not None
    assert (options.traces, options.metrics) == (None, "http://metrics:1/x")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert read_options(Settings(otel_endpoint="http://collector:4318")) is None


def test_exported_metrics_are_those_of_the_registry(traced: RunningService, collector: Collector) -> None:
    traced.inspect()

    def counted(name: str, **labels: str) -> float:
        return traced.app.state.metrics.registry.get_sample_value(name, labels) or 0.0

    expected = counted("inspection_requests_total", product="widget", decision="pass")

    def point(name: str, kind: str, **labels: str) -> Any:
        metric = collector.metrics.get(name)
        points = [] if metric is None else getattr(metric, kind).data_points
        return next((each for each in points if attributes(each.attributes) == labels), None)

    def is_exported() -> bool:
        found = point("inspection_requests", "sum", product="widget", decision="pass")
        return found is not None and found.as_double == expected

    wait_for(is_exported)
    metric = collector.metrics["inspection_requests"]
    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == 2
    assert metric.description == "Completed inspections."
    assert point("inspection_ready", "gauge").as_double == 1
    duration = point("inspection_duration_seconds", "histogram", product="widget")
    assert duration.count == sum(duration.bucket_counts) == expected
    assert len(duration.bucket_counts) == len(duration.explicit_bounds) + 1
    assert duration.sum > 0
    upper = duration.explicit_bounds[-1]
    assert counted("inspection_duration_seconds_bucket", product="widget", le=str(upper)) == sum(
        duration.bucket_counts[:-1]
    )
    assert not duration.HasField("min")


@pytest.mark.slow
def test_a_collector_that_fails_delays_nothing_and_is_logged_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    with run_collector() as collector, capture_logs() as logs:
        collector.status = 400
        with serve(otel_endpoint=collector.url) as service:
            registry = service.app.state.metrics.registry

            def exports(outcome: str) -> float:
                labels = {"signal": "traces", "outcome": outcome}
                return registry.get_sample_value("inspection_otel_exports_total", labels) or 0.0

            for _ in range(5):
                service.inspect()
                time.sleep(0.05)
            wait_for(lambda: exports("failed") >= 2)
            collector.status = 200
            service.inspect()
            wait_for(lambda: exports("sent") >= 1)
            # From now on the collector responds too late.
            collector.delay_s = 5.0
            durations = []
            for _ in range(10):
                started = time.perf_counter()
                assert service.inspect().status_code == 201
                durations.append(time.perf_counter() - started)
            assert sorted(durations)[5] < 1.0
            stopped = time.monotonic()
        assert time.monotonic() - stopped < 8
    events = [entry["event"] for entry in logs if entry.get("signal") == "traces"]
    assert events == ["collector does not receive", "collector receives again"]


def test_a_full_queue_drops_traces_and_counts_them(traced: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry, registry = traced.runtime.interfaces.telemetry, traced.app.state.metrics.registry
    assert telemetry is not None
    assert telemetry._tracer is not None
    before = registry.get_sample_value("inspection_otel_dropped_total")
    monkeypatch.setattr(telemetry._tracer._queue, "maxsize", 1)
    monkeypatch.setattr(telemetry._tracer._queue, "_qsize", lambda: 1)
    assert traced.inspect().status_code == 201
    assert registry.get_sample_value("inspection_otel_dropped_total") == before + 1


@pytest.mark.parametrize("url", ["collector:4318", "ftp://collector", "http://", "http://[::1", "http://x:y"])
def test_unusable_endpoints_are_refused(url: str) -> None:
    with pytest.raises(CannotStart, match="not the URL of a collector"):
        read_options(Settings(otel_endpoint=url))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(CannotStart, match=r"pip install ./client '\.\[otel\]'"):
        read_options(Settings(otel_endpoint="http://collector:4318"))


def test_nothing_is_imported_unless_it_is_configured() -> None:
    code = (
        "import sys; from service.app import create_app; from service.settings import Settings;"
        # FastAPI imports the interface of OpenTelemetry where it is installed, which does nothing by itself.
        "create_app(Settings()); print({'asyncua', 'opentelemetry.sdk', 'opentelemetry.exporter'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
