"""The counters of the current shift."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from service.monitoring.clock import Clock
from service.serving.periods import PeriodName, named_period, period_around
from service.settings import Settings
from service.shift_times import parse_shifts
from service.store.inspection_filter import InspectionFilter
from service.store.store import Store
from service.store.tallies import Tally, tally_inspections

# Inspections that are older are not stored any more, so their number does not change.
_SETTLED = timedelta(minutes=3)
_PIECE = timedelta(hours=1)
_MAX_KEPT = 64
_FRESH_S = 0.8


@dataclass(frozen=True)
class Shift:
    """The counters of the current shift.

    Attributes:
        start: When the shift began, in the time zone of the service.
        end: When it ends.
        tally: Its inspections.
        refused: Images that this process refused for lack of capacity, since the shift or the process began.
    """

    start: datetime
    end: datetime
    tally: Tally
    refused: int


class ShiftService:
    """Counts the inspections of the current shift.

    What was counted once is kept, so that only the last minutes are counted again.

    Args:
        store: The inspections.
        settings: Time zone and shifts.
        clock: The time of day.
        refused: Returns the number of images that were refused since the process began.
    """

    def __init__(self, store: Store, settings: Settings, clock: Clock, refused: Callable[[], int]) -> None:
        self._engine: Engine = store.engine
        self._zone = ZoneInfo(settings.time_zone)
        self._starts = parse_shifts(settings.shifts)
        self._clock = clock
        self._refused = refused
        self._lock = threading.Lock()
        self._settled: OrderedDict[InspectionFilter, tuple[datetime, Tally]] = OrderedDict()
        self._newest: OrderedDict[InspectionFilter, tuple[float, Tally]] = OrderedDict()
        # One at a time: pages that are open at once share the result.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shift-counts")
        self._refused_before: tuple[datetime, int] | None = None
        self._refused_last = 0

    async def current(self, which: InspectionFilter) -> Shift:
        """Return the counters of the current shift. They are at most a second old.

        Args:
            which: The conditions, without a period.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        start, end = self.bounds()
        which = replace(which, since=start, until=end)
        tally = await asyncio.get_running_loop().run_in_executor(self._pool, self._tally, which)
        return Shift(start.astimezone(self._zone), end.astimezone(self._zone), tally, self.count_refused())

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(cancel_futures=True)

    def bounds(self) -> tuple[datetime, datetime]:
        """Return when the current shift began and when it ends, in UTC."""
        return period_around("shift", self._clock.now(), self._zone, self._starts)

    def period(self, name: PeriodName) -> tuple[datetime, datetime | None]:
        """Return when a period begins and ends, in UTC; the end is None for a period that is not over."""
        return named_period(name, self._clock.now(), self._zone, self._starts)

    def count_refused(self) -> int:
        """Return the number of images that were refused in this shift. Call it regularly, to notice a new shift."""
        start, _ = self.bounds()
        with self._lock:
            total = self._refused()
            if self._refused_before is None:
                self._refused_before = (start, 0)
            elif self._refused_before[0] != start:
                self._refused_before = (start, self._refused_last)
            self._refused_last = total
            return total - self._refused_before[1]

    def _tally(self, which: InspectionFilter) -> Tally:
        now = time.monotonic()
        counted_at, tally = self._newest.get(which, (-_FRESH_S, Tally()))
        if now - counted_at < _FRESH_S:
            return tally
        assert which.since is not None
        assert which.until is not None
        since, settled = self._settled.get(which, (which.since, Tally()))
        until = min(self._clock.now() - _SETTLED, which.until)
        while since < until:
            end = min(since + _PIECE, until)
            settled += tally_inspections(self._engine, replace(which, since=since, until=end))
            since = end
            self._settled[which] = (since, settled)
        tally = settled + tally_inspections(self._engine, replace(which, since=since))
        self._newest[which] = (time.monotonic(), tally)
        for kept in (self._settled, self._newest):
            if which in kept:
                kept.move_to_end(which)
            while len(kept) > _MAX_KEPT:
                kept.popitem(last=False)
        return tally
