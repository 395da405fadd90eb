"""A Prometheus histogram with different buckets for each series.

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


class ScaledHistogram(Collector):
    """A histogram with buckets of its own for each series. A series must be added before its values are counted.

    Args:
        name: Name of the metric.
        documentation: Help text of the metric.
        labels: Names of the labels.

    Attributes:
        labels: Names of the labels.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = ("product",)) -> None:
        self.labels = tuple(labels)
        self._name = name
        self._documentation = documentation
        self._series: dict[tuple[str, ...], _Series] = {}
        self._lock = threading.Lock()

    def add(self, bounds: Sequence[float], *labels: str) -> None:
        """Create a series, or reset it if its buckets change.

        Args:
            bounds: Upper bounds of the buckets, ascending, without +Inf.
            *labels: Values of the labels.
        """
        with self._lock:
            if labels not in self._series or self._series[labels].bounds != list(bounds):
                self._series[labels] = _Series(list(bounds))

    def remove(self, *labels: str) -> None:
        """Remove a series, if it exists."""
        with self._lock:
            self._series.pop(labels, None)

    def observe(self, value: float, *labels: str) -> None:
        """Count one value.

        Raises:
            KeyError: The series was not added.
        """
        with self._lock:
            self._count(self._series[labels], value)

    def observe_known(self, value: float, *labels: str) -> None:
        """Count one value if its series was added."""
        with self._lock:
            series = self._series.get(labels)
            if series is not None:
                self._count(series, value)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric with all series."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self.labels)
        with self._lock:
            for labels, series in self._series.items():
                names = [*map(floatToGoString, series.bounds), "+Inf"]
                cumulative = itertools.accumulate(series.counts)
                family.add_metric(labels, list(zip(names, cumulative, strict=True)), sum_value=series.total)
        yield family

    @staticmethod
    def _count(series: _Series, value: float) -> None:
        series.counts[bisect.bisect_left(series.bounds, value)] += 1
        series.total += value
