"""The counters of the current shift."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from service.monitoring.clock import Clock
from service.serving.admission import Disconnected
from service.serving.periods import parse_shifts, period_starts
from service.serving.record_jobs import RecordJobs
from service.settings import Settings
from service.store.inspection_filter import InspectionFilter
from service.store.store import Store
from service.store.tallies import Tally, tally_inspections

# Inspections that are older are not stored any more, so their number does not change.
_SETTLED = timedelta(minutes=3)
_PIECE = timedelta(hours=1)
_MAX_KEPT = 64


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
        jobs: Limits the counts at the same time.
        clock: The time of day.
        refused: Returns the number of images that were refused since the process began.
    """

    def __init__(
        self, store: Store, settings: Settings, jobs: RecordJobs, clock: Clock, refused: Callable[[], int]
    ) -> None:
        self._engine: Engine = store.engine
        self._zone = ZoneInfo(settings.time_zone)
        self._starts = parse_shifts(settings.shifts)
        self._jobs = jobs
        self._clock = clock
        self._refused = refused
        self._lock = threading.Lock()
        self._kept: OrderedDict[InspectionFilter, tuple[datetime, Tally]] = OrderedDict()
        self._refused_before: tuple[datetime, int] | None = None
        self._refused_last = 0

    async def current(self, which: InspectionFilter, client: str, disconnected: Disconnected) -> Shift:
        """Return the counters of the current shift.

        Args:
            which: The conditions, without a period.
            client: Identity of the client.
            disconnected: Ends the work when the client closes its connection.

        Raises:
            RecordsBusy: The client has another job, or too many clients have.
            StoreUnavailable: The database cannot be read.
        """
        start, end = self.bounds()
        which = replace(which, since=start, until=end)
        now = self._clock.now()
        since, settled = self._settled(which)
        tally = settled
        async with self._jobs.reserve(client, disconnected) as job:
            until = min(now - _SETTLED, end)
            while since < until:
                piece = replace(which, since=since, until=min(since + _PIECE, until))
                tally += await job.run(partial(tally_inspections, self._engine, piece))
                since = min(since + _PIECE, until)
            self._keep(which, since, tally)
            tally += await job.run(partial(tally_inspections, self._engine, replace(which, since=since)))
        return Shift(start.astimezone(self._zone), end.astimezone(self._zone), tally, self.count_refused())

    def bounds(self) -> tuple[datetime, datetime]:
        """Return when the current shift began and when it ends, in UTC."""
        now = self._clock.now()
        starts = period_starts("shift", now, now + timedelta(days=3), self._zone, self._starts)
        return starts[0].astimezone(UTC), starts[1].astimezone(UTC)

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

    def _settled(self, which: InspectionFilter) -> tuple[datetime, Tally]:
        assert which.since is not None
        with self._lock:
            return self._kept.get(which, (which.since, Tally()))

    def _keep(self, which: InspectionFilter, until: datetime, tally: Tally) -> None:
        with self._lock:
            self._kept[which] = (until, tally)
            self._kept.move_to_end(which)
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
