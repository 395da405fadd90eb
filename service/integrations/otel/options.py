"""Options of the export to an OpenTelemetry collector. No OpenTelemetry library is needed for it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.errors import CannotStart
from service.settings import Settings

DEFAULT_INTERVAL_S = 60.0
_MIN_INTERVAL_S = 0.1


@dataclass(frozen=True)
class OtelOptions:
    """Where telemetry is sent.

    Attributes:
        traces: URL for traces; None if they are not exported.
        metrics: URL for metrics; None if they are not exported.
        interval_s: Seconds between two exports of metrics.
    """

    traces: str | None
    metrics: str | None
    interval_s: float


def read_options(settings: Settings) -> OtelOptions | None:
    """Return the options; None if no collector is configured.

    Of the standard variables, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`,
    `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER`, `OTEL_METRIC_EXPORT_INTERVAL` and `OTEL_SDK_DISABLED` are read
    here; the library reads the others.

    Raises:
        CannotStart: The package is not installed, or the endpoint is not a URL.
    """
    if not settings.otel_endpoint:
        return None
    base = settings.otel_endpoint.rstrip("/")
    try:
        parts = urlsplit(base)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_url = False
    if not is_url:
        raise CannotStart(
            f"PLUMBLINE_OTEL_ENDPOINT is {settings.otel_endpoint!r}, which is not the URL of a collector",
            "Give scheme, host and port, such as http://127.0.0.1:4318.",
        )
    if not _has("opentelemetry.sdk") or not _has("opentelemetry.exporter.otlp.proto.http"):
        raise CannotStart(
            "PLUMBLINE_OTEL_ENDPOINT is set, but OpenTelemetry is not installed",
            "pip install ./client '.[otel]' in a checkout of Plumbline",
        )
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    return OtelOptions(_url("traces", base), _url("metrics", base), _interval_s())


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _url(signal: str, base: str) -> str | None:
    if os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip().lower() == "none":
        return None
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT") or f"{base}/v1/{signal}"


def _interval_s() -> float:
    text = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    try:
        return max(float(text) / 1000, _MIN_INTERVAL_S) if text else DEFAULT_INTERVAL_S
    except ValueError as error:
        raise CannotStart(f"OTEL_METRIC_EXPORT_INTERVAL is {text!r}", "Give a number of milliseconds.") from error
