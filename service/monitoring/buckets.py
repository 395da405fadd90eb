"""Bounds of the buckets of histograms that several groups of metrics use."""

from __future__ import annotations

# Dense in the range of an inspection (1-100 ms), so that a regression of a few milliseconds is visible in a quantile.
STAGE_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    1, 2.5, 5, 10,
)  # fmt: skip
