"""Choose how runs of a bundle's graph at the same time share the cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from service.bundle.bundle import Bundle
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.concurrency import choose_concurrency
from service.inspection.runtime.freed_memory import return_freed_memory
from service.inspection.runtime.narrow import open_narrow
from service.inspection.runtime.session import GraphSession, Session
from service.inspection.runtime.threads import cpu_quota


@dataclass(frozen=True)
class RunLayout:
    """How runs at the same time share the cores.

    Attributes:
        concurrency: Runs that may be in progress at the same time.
        open_narrow: Opens the session of one thread for them; None if they share the session. See `MicroBatcher`.
    """

    concurrency: int
    open_narrow: Callable[[], GraphSession | None] | None = None


def choose_layout(bundle: Bundle, session: Session, options: BatchingOptions) -> RunLayout:
    """Return the layout with the highest measured throughput, or the one that the options state.

    Bundles of the same kind, whose graphs take the same time, are measured once.

    Args:
        bundle: The bundle.
        session: Its graph.
        options: State a number of runs at the same time, or None to measure.
    """
    if not session.may_run_concurrently:
        return RunLayout(1)  # also if another number is stated, for instance before the provider was changed
    if options.concurrency is not None:
        return RunLayout(options.concurrency)
    manifest, threads = bundle.manifest, session.options.threads or cpu_quota()
    kind = (
        manifest.method,
        *manifest.teachers,
        manifest.precision,
        manifest.input.height,
        manifest.input.width,
        threads,
        options.may_use_two_sessions,
    )
    opener = partial(_open, bundle, session, options.max_batch)

    @contextmanager
    def narrow_run() -> Iterator[Callable[[], object] | None]:
        narrow = opener() if options.may_use_two_sessions else None
        try:
            yield None if narrow is None else narrow.warm_up
        finally:
            if narrow is not None:
                narrow.close()

    choice = choose_concurrency(kind, session.warm_up, threads, open_narrow=narrow_run)
    return RunLayout(choice.concurrency, opener if choice.is_narrow else None)


def _open(bundle: Bundle, session: Session, max_batch: int) -> GraphSession | None:
    image = np.ascontiguousarray(bundle.read_golden().image)
    narrow = open_narrow(bundle.read_model(), session, image, range(1, max_batch + 1))
    return_freed_memory()
    return narrow
