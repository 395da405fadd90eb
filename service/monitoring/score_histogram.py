"""A Prometheus histogram whose buckets differ from product to product.

The client library gives all label values of a histogram the same buckets. Scores of two bundles are on
unrelated scales, so shared buckets would put every part of one of them into a single bucket.
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
    """Counts scores per product. Products are added by their bundles; scores of others are refused."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self._series: dict[str, _Series] = {}
        self._lock = threading.Lock()

    def add(self, product: str, bounds: Sequence[float]) -> None:
        """Start a product's series; another bundle's buckets start it anew.

        Args:
            product: The label's value.
            bounds: Upper bounds of the buckets, ascending, without infinity.
        """
        with self._lock:
            if product not in self._series or self._series[product].bounds != list(bounds):
                self._series[product] = _Series(list(bounds))

    def observe(self, product: str, score: float) -> None:
        """Count one score.

        Raises:
            KeyError: The product was never added.
        """
        with self._lock:
            series = self._series[product]
            series.counts[bisect.bisect_left(series.bounds, score)] += 1
            series.total += score

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=["product"])
        with self._lock:
            for product, series in self._series.items():
                names = [*map(floatToGoString, series.bounds), "+Inf"]
                cumulative = itertools.accumulate(series.counts)
                family.add_metric([product], list(zip(names, cumulative, strict=True)), sum_value=series.total)
        yield family
