"""The state of the stations that OPC UA shows. It is independent of the OPC UA library.

Inspections change it on their own threads and return at once. The thread of the OPC UA server takes the changes when it
has time. There is no queue: a station that changed several times meanwhile is updated once, with its last values.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from service.monitoring.opcua_metrics import OpcuaMetrics
from service.store.completed import Completed
from service.store.records import InspectionRecord

DEFAULT_STATION = "default"
"""Name of the station of images that have none."""
DECISIONS = ("pass", "review", "fail", "invalid")
_MODULUS = 2**32


@dataclass(frozen=True)
class Armed:
    """A trigger that waits for its inspection.

    Attributes:
        since: When it was armed, on the clock `time.perf_counter`.
        part_id: Part id of the expected inspection; empty if any.
        product: Product of the expected inspection; empty if any.
    """

    since: float
    part_id: str
    product: str


@dataclass(frozen=True)
class Snapshot:
    """The values of a station at one time.

    Attributes:
        changed_at: When the state changed the last time.
        record: The last inspection; None before the first one.
        sequence: Number of inspections since the start of the service, modulo 2^32.
        counts: Inspections by decision since the last reset.
        is_result_ready: Whether the last inspection is the result of the last trigger, or there was no trigger.
        is_busy: Whether a trigger waits for its inspection.
    """

    changed_at: datetime
    record: InspectionRecord | None
    sequence: int
    counts: dict[str, int]
    is_result_ready: bool
    is_busy: bool


@dataclass
class _Station:
    changed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    record: InspectionRecord | None = None
    sequence: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DECISIONS, 0))
    is_result_ready: bool = False
    armed: Armed | None = None
    unpublished: int = 0
    """Inspections since the station was taken the last time."""

    def snapshot(self) -> Snapshot:
        """Return the values now."""
        return Snapshot(
            self.changed_at,
            self.record,
            self.sequence,
            dict(self.counts),
            self.is_result_ready,
            self.armed is not None,
        )


class StationBoard:
    """All stations. Callable by any thread.

    Args:
        stations: Stations that exist from the start.
        limit: Most stations.
        metrics: Counts updates.

    Attributes:
        on_change: Is called after a change when there was none to take before. It must return at once.
    """

    def __init__(self, stations: Iterable[str], limit: int, metrics: OpcuaMetrics) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._limit = limit
        self._metrics = metrics
        self._lock = threading.Lock()
        self._stations = {name: _Station() for name in stations}
        # In the order of the changes; the values are not used.
        self._changed = dict.fromkeys(self._stations)
        metrics.stations.set_function(lambda: float(len(self._stations)))

    def publish(self, completed: Completed) -> None:
        """Set the last inspection of its station."""
        record = completed.record
        name = record.station or DEFAULT_STATION
        with self._lock:
            station = self._stations.get(name)
            if station is None:
                if len(self._stations) >= self._limit:
                    self._metrics.dropped.inc()
                    return
                station = self._stations[name] = _Station()
            station.record = record
            station.sequence = (station.sequence + 1) % _MODULUS
            station.counts[record.decision] = (station.counts[record.decision] + 1) % _MODULUS
            if station.armed is None:
                station.is_result_ready = True
            elif _completes(completed, station.armed):
                station.is_result_ready, station.armed = True, None
            if station.unpublished:
                self._metrics.coalesced.inc()
            station.unpublished += 1
            is_first = self._set_changed(name, station)
        if is_first:
            self.on_change()

    def part_id(self, product: str, station: str | None) -> str | None:
        """Return the part id that a trigger announced for the next image of a product and a station."""
        with self._lock:
            known = self._stations.get(station or DEFAULT_STATION)
            armed = None if known is None else known.armed
        if armed is None or not armed.part_id or armed.product not in {"", product}:
            return None
        return armed.part_id

    def arm(self, name: str, part_id: str, product: str) -> int:
        """Clear the result of a station and wait for the next inspection. A trigger that still waits is replaced.

        Args:
            name: The station.
            part_id: Part id of images that have none; empty for none. An inspection of another part is not the result.
            product: Product of the image; empty if any. An inspection of another product is not the result.

        Returns:
            The sequence number of the last inspection.
        """
        with self._lock:
            station = self._stations[name]
            station.is_result_ready, station.armed = False, Armed(time.perf_counter(), part_id, product)
            is_first, sequence = self._set_changed(name, station), station.sequence
        if is_first:
            self.on_change()
        return sequence

    def reset(self, name: str) -> None:
        """Set the counters of a station to zero, and clear its result and its trigger."""
        with self._lock:
            station = self._stations[name]
            station.counts = dict.fromkeys(DECISIONS, 0)
            station.is_result_ready, station.armed = False, None
            is_first = self._set_changed(name, station)
        if is_first:
            self.on_change()

    def take_changed(self) -> list[tuple[str, Snapshot]]:
        """Return the stations that changed since the last call, in the order of their first change."""
        with self._lock:
            taken = [(name, self._stations[name]) for name in self._changed]
            self._changed.clear()
            for _, station in taken:
                if station.unpublished:
                    self._metrics.updates.inc()
                station.unpublished = 0
            return [(name, station.snapshot()) for name, station in taken]

    def _set_changed(self, name: str, station: _Station) -> bool:
        """Note a change. Return whether it is the first one since the last call of `take_changed`."""
        station.changed_at = datetime.now(UTC)
        is_first = not self._changed
        self._changed[name] = None
        return is_first


def _completes(completed: Completed, armed: Armed) -> bool:
    """Return whether an inspection is the result of a trigger. Images that arrived before the trigger are not."""
    record, arrived = completed.record, completed.arrived or completed.submitted
    return arrived >= armed.since and armed.product in {"", record.product} and armed.part_id in {"", record.part_id}
