"""Functions that stand in for the training of a product, for tests of the processes around it.

The processes import this module, so it imports no torch.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 120.0


@dataclass(frozen=True)
class FakeJob:
    """A job with what the engines use of one; `product` says what becomes of it."""

    product: str
    folder: Path


@dataclass(frozen=True)
class FakeProgress:
    step: int
    steps: int = 10**6


def run_fake(job: FakeJob, reporter: Any, should_stop: Callable[[Any], bool] = lambda _: False) -> Any:
    """Do what the name of the product says, and write down when."""
    begun = time.monotonic()
    advance = reporter.stage("train", 1000)
    kind = job.product.partition("-")[0]
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exits":
        os._exit(3)
    if kind == "greedy":
        taken = bytearray(os.urandom(1)) * (400 * 2**20)
        time.sleep(LIMIT_S)
        return len(taken)
    if kind == "endless":
        for step in range(10**6):
            advance(step, "")
            if should_stop(FakeProgress(step)):
                (job.folder / f"{job.product}.checkpoint").write_text(str(step))
                return "interrupted"
            time.sleep(0.01)
    (job.folder / job.product).write_text(f"{begun} {time.monotonic()}")
    return f"{job.product} done"
