"""Metrics by station. The name of a station is a text of the client, so the number of stations is limited."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, Counter

from service.inspection.decision import Decision

STATIONS_PER_PRODUCT = 64
"""Stations of a product that have time series of their own. Further ones share the series of `OTHER_STATION`."""
DEFAULT_STATION = "default"
"""Label of images without a station."""
OTHER_STATION = "other"
DECISIONS = tuple(decision.value for decision in Decision)


class StationMetrics:
    """The metrics by station.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.inspections = Counter(
            "inspection_station_requests_total",
            f"Completed inspections, by station. `{DEFAULT_STATION}`: images without a station. `{OTHER_STATION}`: "
            f"stations beyond the first {STATIONS_PER_PRODUCT} of a product.",
            ["product", "station", "decision"],
            registry=registry,
        )
        self._stations: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    def count(self, product: str, station: str | None, decision: str) -> None:
        """Count an inspection."""
        self.inspections.labels(product, self._label(product, station or DEFAULT_STATION), decision).inc()

    def _label(self, product: str, station: str) -> str:
        """Return the label of a station, and create its series when it is new."""
        if station in self._stations.get(product, frozenset()):
            return station
        with self._lock:
            stations = self._stations.get(product, frozenset())
            if station in stations:
                return station
            if len(stations) >= STATIONS_PER_PRODUCT:
                return OTHER_STATION
            # A counter that begins with 0 has a rate from its first inspection on.
            for decision in DECISIONS:
                self.inspections.labels(product, station, decision)
            self._stations[product] = stations | {station}
        return station
