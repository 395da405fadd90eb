"""Metrics of drift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.schemas.drift import DriftKind


class DriftMetrics:
    """The metrics of drift.

    Stations are values from requests. Their number is limited: see `MAX_STATIONS` in `service.serving.drift.tracker`.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.suspended = Gauge(
            "inspection_guarantee_suspended",
            "1 while drift suspends the guarantee of a product.",
            ["product"],
            registry=registry,
        )
        self.evidence = Gauge(
            "inspection_drift_evidence",
            "Decimal logarithm of the evidence for drift; 0 means none. The station is empty for the whole product.",
            ["product", "station", "kind"],
            registry=registry,
        )
        self.limit = Gauge(
            "inspection_drift_evidence_limit",
            "Evidence at which an alarm is raised.",
            ["kind"],
            registry=registry,
        )
        self.alarms = Counter(
            "inspection_drift_alarms_total", "Alarms of drift.", ["product", "kind"], registry=registry
        )
        self._shown: set[tuple[str, str, str]] = set()
        self._served: set[str] = set()

    def set_limits(self, limits: Mapping[DriftKind, float]) -> None:
        """Set the evidence at which alarms are raised, by kind."""
        for kind, limit in limits.items():
            self.limit.labels(kind).set(limit)

    def set_evidence(self, evidence: Iterable[tuple[str, str, str, float]]) -> None:
        """Set the evidence of all streams, and remove the series of others. Call it from one thread at a time.

        Args:
            evidence: Product, station, kind and evidence of each stream.
        """
        shown: set[tuple[str, str, str]] = set()
        for product, station, kind, value in evidence:
            self.evidence.labels(product, station, kind).set(value)
            self.alarms.labels(product, kind)
            shown.add((product, station, kind))
        for labels in self._shown - shown:
            self.evidence.remove(*labels)
        self._shown = shown

    def set_suspended(self, suspended: Mapping[str, bool]) -> None:
        """Set whether the guarantee is suspended, by product, and remove the series of other products."""
        for product, is_suspended in suspended.items():
            self.suspended.labels(product).set(float(is_suspended))
        for product in self._served - suspended.keys():
            self.suspended.remove(product)
        self._served = set(suspended)
