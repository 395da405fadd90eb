"""The training of a fleet: the jobs that are not done yet, on an engine, and the report after each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from training.fleet.engine import Engine, Watch
from training.fleet.entry import Entry
from training.fleet.job import Job, is_ended, stored_result
from training.fleet.page import write_page
from training.fleet.results import Result
from training.interruption import Interruption

PAGE = "fleet.html"
PAGE_S = 10.0  # between two versions of the report
BUSY_S = 2.0  # until products of other processes are looked at again


def run_fleet(
    jobs: Sequence[Job],
    engine: Engine,
    out: Path,
    *,
    on_ended: Callable[[Entry, int], None] = lambda *_: None,
    watch: Watch = lambda *_: None,
    stop: Interruption,
) -> list[Entry]:
    """Train the products that are not done yet.

    Several fleets with the same folder of results share the products.

    Args:
        jobs: The products.
        engine: Does the jobs.
        out: Folder of the results; the report `fleet.html` is written there.
        on_ended: Called with each product that has ended, also with those that need no training, and the number of
            those that have.
        watch: Shows what is done.
        stop: Ends the work; what is done is kept, and a later call continues.

    Returns:
        The products in the order of the jobs. Those that wait were interrupted.

    Raises:
        OSError: A result or the report cannot be stored.
    """
    out.mkdir(parents=True, exist_ok=True)
    entries = {job.product: _entry_before(job) for job in jobs}
    open_jobs = [job for job in jobs if entries[job.product].state == "waiting"]
    page_at = time.monotonic()
    write_page(out / PAGE, list(entries.values()))
    ended = 0
    for entry in entries.values():
        if entry.state == "unchanged":
            ended += 1
            on_ended(entry, ended)
    while open_jobs and stop.signal is None:
        busy = []
        for job, outcome in engine.run(open_jobs, watch, stop):
            if outcome == "busy":
                busy.append(job)
            elif isinstance(outcome, Result):
                entries[job.product] = Entry(job, "trained" if outcome.error is None else "failed", outcome)
                ended += 1
                on_ended(entries[job.product], ended)
            if time.monotonic() - page_at >= PAGE_S:
                page_at = time.monotonic()
                write_page(out / PAGE, list(entries.values()))
        open_jobs = busy
        if busy:  # other processes work on them
            stop.wait(BUSY_S)
    write_page(out / PAGE, list(entries.values()))
    return list(entries.values())


def _entry_before(job: Job) -> Entry:
    """Return how far a product is before the start. One that failed is tried again."""
    try:
        result = stored_result(job)
    except OSError:  # the job reports it
        return Entry(job, "waiting")
    return Entry(job, "unchanged", result) if is_ended(job, result) else Entry(job, "waiting")
