"""What `benchmarks.ray_serve` computes from its measurements and writes into the guide."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from benchmarks.marked_section import with_section
from benchmarks.ray_serve import DOCUMENT, shares, table

REPORT: dict[str, Any] = {
    "product": "washer",
    "turns": 200,
    "seconds": 10.0,
    "latency_ms": {
        "jpeg": {
            "bytes": 312_000, "single": 20.25, "ray": 31.5, "added": 11.0, "added_95": [10.5, 11.75],
            "processor_ms": [19.0, 40.5],
        },
    },
    "spread": [
        {
            "max_ongoing_requests": "shipped", "clients": 8, "inspections_per_s": 60.5, "other_responses": {},
            "shares": [0.55, 0.45],
        },
    ],
}  # fmt: skip


def test_shares_are_of_the_runs_between_the_counts_only() -> None:
    before = Counter({"first": 90, "second": 10})
    assert shares(before, Counter({"first": 100, "second": 40})) == [0.75, 0.25]
    assert shares(before, Counter({"first": 90, "second": 20, "added": 10})) == [0.5, 0.5, 0.0]
    with pytest.raises(RuntimeError, match="no graph was run"):
        shares(before, before)


def test_tables_have_a_section_in_the_guide() -> None:
    written = with_section(DOCUMENT.read_text(encoding="utf-8"), "ray-serve", table(REPORT)).splitlines()
    assert "| JPEG of 312 kB | 20.25 | 31.5 | 11.0 (10.5 to 11.75) | 19.0 / 40.5 |" in written
    assert "| shipped | 8 | 60.5 | 55 % / 45 % |" in written
