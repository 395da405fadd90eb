"""A Prometheus histogram with different buckets for each product.

In the client library all label values of a histogram share their buckets. The scores of two bundles are on unrelated
scales, so with shared buckets all scores of one product could fall into a single bucket.
"""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


@dataclass
class _Series:
    bounds: list[float]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)


class ScoreHistogram(Collector):
    """A histogram of scores per product. A product must be added before its scores are counted.

    Args:
        name: Name of the metric.
        documentation: Help text of the metric.
    """

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self._series: dict[str, _Series] = {}
        self._lock = threading.Lock()

    def add(self, product: str, bounds: Sequence[float]) -> None:
        """Create a product's series, or reset it if its buckets change.

        Args:
            product: The value of the label `product`.
            bounds: Upper bounds of the buckets, ascending, without +Inf.
        """
        with self._lock:
            if product not in self._series or self._series[product].bounds != list(bounds):
                self._series[product] = _Series(list(bounds))

    def observe(self, product: str, score: float) -> None:
        """Count one score.

        Raises:
            KeyError: The product was not added.
        """
        with self._lock:
            series = self._series[product]
            series.counts[bisect.bisect_left(series.bounds, score)] += 1
            series.total += score

    def collect(self) -> Iterator[Metric]:
        """Yield the metric with the series of all products."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=["product"])
        with self._lock:
            for product, series in self._series.items():
                names = [*map(floatToGoString, series.bounds), "+Inf"]
                cumulative = itertools.accumulate(series.counts)
                family.add_metric([product], list(zip(names, cumulative, strict=True)), sum_value=series.total)
        yield family


def score_buckets(scores: list[float]) -> list[float]:
    """Return the upper bounds of a product's score buckets, ascending, around its largest calibration score.

    Args:
        scores: Scores of the held-out good images, ascending.
    """
    middle, top = scores[len(scores) // 2], scores[-1]
    # Without a minimum, identical scores would give identical bounds.
    step = max(top - middle, abs(top) * 1e-3, 1e-9)
    factors = (-2, -1, -0.5, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 20)
    bounds = [middle + step * factor for factor in factors]
    # No negative bounds for non-negative scores: with a negative bound, the exposition omits the sum.
    return bounds if scores[0] < 0 else [bound for bound in bounds if bound >= 0]
