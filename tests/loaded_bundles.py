"""Measure in a process of its own how much memory loaded bundles take."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from service.bundle.bundle import Bundle
from service.deployment.repository import BundleLoader
from service.inspection.inspector import InspectorOptions, SelfTestResult
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.isolation import SelfTestLimits
from service.inspection.runtime.session import SessionOptions

FURTHER = 10
_PASSED = SelfTestResult("cpu", 0.0)
_PASSED_ELSEWHERE = SelfTestResult("cuda", 0.0)
"""Has the whole self-test repeated, because another provider runs the graph now."""


@dataclass(frozen=True)
class MemoryGrowth:
    """How much the resident memory of a process grew.

    Attributes:
        first_bytes: With the first bundle, its whole self-test and an inspection.
        further_bytes: With each further bundle and an inspection; the mean of `FURTHER` bundles.
    """

    first_bytes: int
    further_bytes: int


def measure_growth(path: Path) -> MemoryGrowth:
    """Load a bundle several times in a new process, as if each were that of another product.

    Args:
        path: The folder of the bundle.
    """
    command = [sys.executable, "-m", "tests.loaded_bundles", str(path.absolute())]
    finished = subprocess.run(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, check=True)
    return MemoryGrowth(**json.loads(finished.stdout))


def _load_all(path: Path) -> MemoryGrowth:
    options = InspectorOptions(SessionOptions(provider="cpu", threads=2), BatchingOptions(concurrency=2, max_batch=1))
    loader, kept = BundleLoader(options, SelfTestLimits()), []

    def load(passed: SelfTestResult) -> int:
        bundle = Bundle.describe(path)
        kept.append(loader.reload(bundle, passed))
        kept[-1].batcher.run(bundle.read_golden().image)
        return _resident_bytes()

    before = _resident_bytes()
    first = load(_PASSED_ELSEWHERE)
    load(_PASSED)  # it takes what is left of the memory of the first one
    second = load(_PASSED)
    last = [load(_PASSED) for _ in range(FURTHER)][-1]
    return MemoryGrowth(first - before, (last - second) // FURTHER)


def _resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_load_all(Path(sys.argv[1])))))
