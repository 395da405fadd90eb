"""Metrics of HTTP requests, connections and bodies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.monitoring.buckets import STAGE_BUCKETS_S

CloseReason = Literal["limit", "replaced", "idle", "headers", "write", "malformed", "frame_memory", "handshake"]
"""Why a connection was closed by the service."""
UNMATCHED_ROUTE = "unmatched"


class HttpMetrics:
    """The metrics of HTTP.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.http_requests = Counter(
            "http_requests_total", "HTTP requests.", ["method", "route", "status"], registry=registry
        )
        self.http_duration = Histogram(
            "http_request_duration_seconds",
            "Time from the first byte of the request to the last byte of the response, by class of the status code.",
            ["method", "route", "status_class"],
            buckets=STAGE_BUCKETS_S,
            registry=registry,
        )
        self.problems = Counter(
            "inspection_problems_total", "Problem responses, by the last part of the problem type.", ["type"],
            registry=registry,
        )  # fmt: skip
        self.connections = Gauge("http_connections", "Open connections, streams included.", registry=registry)
        self.connections_closed = Counter(
            "http_connections_closed_total",
            "Connections that the service refused or closed, by reason.",
            ["reason"],
            registry=registry,
        )
        self.body_bytes = Gauge(
            "http_body_bytes",
            "Memory reserved for bodies in flight, by direction, in bytes.",
            ["direction"],
            registry=registry,
        )
        self.body_bytes_limit = Gauge(
            "http_body_bytes_limit", "Maximum memory for bodies in flight, per direction.", registry=registry
        )
        self._read_body_memory: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)
        for reason in get_args(CloseReason):
            self.connections_closed.labels(reason)

    def set_body_memory(self, requests: Callable[[], int], responses: Callable[[], int], limit_bytes: int) -> None:
        """Set the sources of the memory that bodies use, which are read at every scrape, and its limit."""
        self.body_bytes.labels("request").set_function(requests)
        self.body_bytes.labels("response").set_function(responses)
        self.body_bytes_limit.set(limit_bytes)
        self._read_body_memory = lambda: (requests(), responses(), limit_bytes)

    def body_memory(self) -> tuple[int, int, int]:
        """Return the memory that bodies of requests and of responses use now, and the limit of each, in bytes."""
        return self._read_body_memory()

    def count_request(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count an HTTP request.

        Args:
            method: HTTP method, from a closed set.
            route: Template of the route, or `UNMATCHED_ROUTE`.
            status: Status code of the response; 0 if none was sent.
            duration_s: Seconds from the first byte of the request to the last byte of the response.
        """
        self.http_requests.labels(method, route, str(status)).inc()
        self.http_duration.labels(method, route, status_class(status)).observe(duration_s)


def status_class(status: int) -> str:
    """Return the class of an HTTP status code, such as `2xx`; `none` if no response was sent."""
    return f"{status // 100}xx" if status else "none"
