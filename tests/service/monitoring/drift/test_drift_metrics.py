"""Series of the metrics of drift."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from service.monitoring.drift_metrics import DriftMetrics


def test_product_that_is_not_served_any_more_has_no_series_of_its_guarantee() -> None:
    registry = CollectorRegistry()
    metrics = DriftMetrics(registry)
    metrics.set_suspended({"bolt": True, "nut": False})
    metrics.set_suspended({"nut": True})
    values = {
        name: registry.get_sample_value("inspection_guarantee_suspended", {"product": name}) for name in ("bolt", "nut")
    }
    assert values == {"bolt": None, "nut": 1.0}
