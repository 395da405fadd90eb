"""Which bundles stay in memory, how much of it each takes, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from service.bundle.manifest import MODEL, Manifest

_STAY_PER_LOAD = 10.0
_MIN_STAY_S, _MAX_STAY_S = 0.5, 5.0
_OVERHEAD_BYTES = 5 * 2**20
_LOW_PRECISION_FACTOR = 1.3
"""ONNX Runtime packs int8 weights a second time, and converts float16 weights to float32 on a CPU."""


@dataclass(frozen=True)
class MemoryLimits:
    """Which bundles stay in memory.

    Attributes:
        limit_bytes: Memory for bundles, as `memory_bytes` counts it; None keeps all of them in memory.
        pinned: Products whose bundles stay in memory.
    """

    limit_bytes: int | None = None
    pinned: frozenset[str] = frozenset()

    def keeps(self, product: str) -> bool:
        """Return whether the bundle of a product is loaded at the start and stays in memory."""
        return self.limit_bytes is None or product in self.pinned


KEEP_ALL = MemoryLimits()


def memory_bytes(manifest: Manifest) -> int:
    """Return the memory that a loaded bundle takes, in bytes, as an estimate from the size of its graph.

    `python -m benchmarks.many_products` and a test measure it. What all bundles share is not part of it: the program,
    its libraries, and the tensors between the operators of the graphs that run.
    """
    factor = 1.0 if manifest.precision == "fp32" else _LOW_PRECISION_FACTOR
    return round(manifest.files[MODEL].bytes * factor) + _OVERHEAD_BYTES


def stay_s(load_s: float) -> float:
    """Return how long a bundle stays in memory at least, from the duration of its load.

    Where products replace each other all the time, about a tenth of the time is spent on loading them.

    Args:
        load_s: Duration of its load in seconds.
    """
    return min(_MAX_STAY_S, max(_MIN_STAY_S, _STAY_PER_LOAD * load_s))
