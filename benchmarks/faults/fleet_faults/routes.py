"""Where a proxy sent the requests of each product."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

_REQUEST = re.compile(r' replicas/(\w+) .*"POST /v1/products/([^/]+)/inspections ')
_DOWN = re.compile(r"Server replicas/(\w+) is DOWN, reason: ([^,]+)")


def sent_elsewhere(log: Path) -> float:
    """Return the share of the inspections that were not sent to the replica that got most of their product.

    Bounded load and replicas that are down cause it.

    Args:
        log: The log of HAProxy.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in log.read_text().splitlines():
        if (match := _REQUEST.search(line)) is not None:
            found[match[2]][match[1]] += 1
    total = sum(replicas.total() for replicas in found.values())
    elsewhere = total - sum(max(replicas.values()) for replicas in found.values())
    return round(elsewhere / max(1, total), 4)


def marked_down(log: Path) -> dict[str, int]:
    """Return how often each replica was marked down, by its name and the reason."""
    return dict(Counter(f"{name}: {reason}" for name, reason in _DOWN.findall(log.read_text())))
