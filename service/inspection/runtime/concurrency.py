"""Choose how many inference runs of one session may be in progress at the same time.

A run of one image uses all threads of its session, but the operators of a small graph keep two threads busy for a part
of the time only. If several images wait, several runs at the same time use the cores better: ONNX Runtime lets the
threads of a session work for whichever run has something to do. A single image still has all threads, so a single
camera keeps its latency. All runs use one session and one copy of the weights, and its threads divide an operator in
the same way for every run, so the results are the same to the last bit.

Runs at the same time may also have one thread each, in a second session of one thread (see `narrow`). Then no thread
waits for another one between the operators, but the graph is in memory twice.

How much is gained depends on the graph and on the machine, so all ways are measured when a graph is opened.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import structlog

MIN_GAIN = 1.05
"""Runs of one session at the same time need memory, so they must process this many times as many images."""
NARROW_TOLERANCE = 0.9
"""Runs of one thread each are preferred unless they process fewer than this many times the images of the best other
way. The measurement has the cores for itself. In service, other images are decoded meanwhile: the threads of a shared
session then wait for each other, and runs of one thread each do not (`python -m benchmarks.saturation` compares both).
"""
MAX_CONCURRENCY = 16
BUDGET_S = 2.0
_ROUNDS = 3
OpenNarrow = Callable[[], AbstractContextManager[Callable[[], object] | None]]
log = structlog.get_logger(__name__)
_measured: dict[Hashable, ConcurrencyChoice] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class ConcurrencyChoice:
    """The number of runs at the same time, and what it was chosen from.

    Attributes:
        concurrency: Runs that may be in progress at the same time, at least 1.
        images_per_s: Measured throughput by number of runs; empty if it was not measured.
        is_narrow: Whether runs at the same time have one thread each, in a session of one thread.
        narrow_images_per_s: Measured throughput of as many runs as threads, with one thread each; None if it was not
            measured.
    """

    concurrency: int
    images_per_s: Mapping[int, float]
    is_narrow: bool = False
    narrow_images_per_s: float | None = None

    def as_log(self) -> dict[str, Any]:
        """Return the choice for a line of the log."""
        shared = {str(number): round(rate, 1) for number, rate in self.images_per_s.items()}
        narrow = None if self.narrow_images_per_s is None else round(self.narrow_images_per_s, 1)
        return {
            "concurrent_runs": self.concurrency,
            "one_thread_each": self.is_narrow,
            "images_per_s": shared,
            "images_per_s_one_thread_each": narrow,
        }


def choose_concurrency(
    key: Hashable,
    run: Callable[[], object],
    threads: int,
    budget_s: float = BUDGET_S,
    open_narrow: OpenNarrow = contextlib.nullcontext,
) -> ConcurrencyChoice:
    """Measure a session, or return what was measured for another one with the same key.

    One session is measured at a time, because sessions would slow each other down.

    Args:
        key: What the duration of a run depends on: the kind of graph, its input size, the number of threads.
        run: Runs one image. It is called from several threads at a time.
        threads: Threads of the session.
        budget_s: About the longest time to spend, in seconds. A graph that is too slow for it gets 1.
        open_narrow: Opens a session of one thread for the time of the block, and yields what runs one image in it; None
            if that is not possible.
    """
    if threads == 1:
        return ConcurrencyChoice(1, {})
    with _lock:
        if key not in _measured:
            with open_narrow() as run_narrow:
                choice = measure_concurrency(run, threads, budget_s, run_narrow=run_narrow)
            log.info("throughput measured", **choice.as_log())
            _measured[key] = choice
        return _measured[key]


def measure_concurrency(
    run: Callable[[], object],
    threads: int,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
    run_narrow: Callable[[], object] | None = None,
) -> ConcurrencyChoice:
    """Measure the throughput of a session with several numbers of runs at the same time.

    Args:
        run: Runs one image. It is called from several threads at a time.
        threads: Threads of the session.
        budget_s: As for `choose_concurrency`.
        clock: Monotonic time in seconds.
        run_narrow: Runs one image in a session of one thread; None if there is none.
    """
    started = clock()
    run()
    largest = min(threads, MAX_CONCURRENCY)
    candidates = sorted({1, largest, *(2**power for power in range(1, largest.bit_length()) if 2**power < largest)})
    images = 2 * largest
    if (clock() - started) * images * len(candidates) > budget_s:
        return ConcurrencyChoice(1, {})
    best, narrow = dict.fromkeys(candidates, 0.0), None if run_narrow is None else 0.0
    for _ in range(_ROUNDS):
        # In turn, so that other load on the machine affects all of them.
        for concurrency in candidates:
            best[concurrency] = max(best[concurrency], images / _time(run, concurrency, images, clock))
        if run_narrow is not None and narrow is not None:
            narrow = max(narrow, images / _time(run_narrow, largest, images, clock))
        if clock() - started > budget_s:
            break
    chosen = _choose(best)
    if narrow is not None and narrow >= NARROW_TOLERANCE * max(best.values()):
        return ConcurrencyChoice(largest, best, is_narrow=True, narrow_images_per_s=narrow)
    return ConcurrencyChoice(chosen, best, narrow_images_per_s=narrow)


def _choose(images_per_s: Mapping[int, float]) -> int:
    fastest = max(images_per_s, key=lambda concurrency: images_per_s[concurrency])
    return fastest if images_per_s[fastest] >= MIN_GAIN * images_per_s[1] else 1


def _time(run: Callable[[], object], concurrency: int, images: int, clock: Callable[[], float]) -> float:
    """Return the seconds that a number of images take."""
    with ThreadPoolExecutor(concurrency) as pool:
        started = clock()
        done: Sequence[object] = list(pool.map(lambda _: run(), range(images)))
        assert len(done) == images
        return clock() - started
