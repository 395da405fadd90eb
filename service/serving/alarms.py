"""What is abnormal now, and since when. A thread examines it, so that a request only reads the result."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import structlog

from service.access.principal import Principal
from service.deployment.registry import Registry
from service.schemas.alarm import AlarmKind, Severity
from service.serving.fail_rate import REFERENCE, WINDOWS, FailRate
from service.serving.readiness import ReadinessCheck
from service.serving.shifts import ShiftService
from service.store.errors import StoreUnavailable
from service.store.health import StoreHealth
from service.store.inspection_feed import InspectionFeed, Mark
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import OUTCOMES, list_inspections, read_columns
from service.store.store import Store

log = structlog.get_logger(__name__)

Value = str | float | int

INTERVAL_S = 1.0
_SLOW_INTERVAL_S = 10.0
INVALID_STREAK = 10
"""Invalid images in succession from one station that are an alarm."""
MIN_FREE_SHARE, FULL_SHARE, FULL_BYTES = 0.1, 0.03, 2**30  # as the alerts PlumblineDiskSpaceLow and PlumblineDiskFull
EXPIRY_WARNING = timedelta(days=21)
_MAX_STATIONS = 1000
_PAGE = 1000
_MAX_REASONS = 5
_OF_EVERYONE: frozenset[AlarmKind] = frozenset({"not-ready", "store", "disk"})
_HIDDEN_REASON = "The reason is shown to clients that may use every product."
_ORDER: Mapping[Severity, int] = {"critical": 0, "warning": 1}


@dataclass(frozen=True)
class Alarm:
    """Something abnormal.

    Attributes:
        kind: What it is.
        severity: `critical` if inspections fail or verdicts cannot be trusted.
        product: The product; None if it concerns all.
        station: The station; None if it concerns all.
        since: When it was noticed first.
        values: Measured values and names, by name.
    """

    kind: AlarmKind
    severity: Severity
    product: str | None = None
    station: str | None = None
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    values: Mapping[str, Value] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str | None, str | None, Value | None]:
        """What identifies the alarm while its values change."""
        return self.kind, self.product, self.station, self.values.get("name")


@dataclass(frozen=True)
class DriftState:
    """A product or a station whose inspections changed.

    Attributes:
        product: The product.
        station: The station; None for all.
        cause: What changed, for instance `brightness` or `p_value`.
        since: The estimated beginning.
        is_suspended: Whether the guarantee of the false-reject rate is suspended.
    """

    product: str
    station: str | None
    cause: str
    since: datetime
    is_suspended: bool


def no_drift() -> Sequence[DriftState]:
    """Return no states."""
    return ()


def no_certificate() -> datetime | None:
    """Return None: the service does not use TLS."""
    return None


@dataclass(frozen=True)
class AlarmSources:
    """What is examined.

    Attributes:
        readiness: Whether the service accepts images.
        store_health: What prevents inspections from being stored.
        folders: Folder by name, whose disk space is examined.
        dead_letters: Returns the number of dead letters by sink. It may read the database.
        is_insecure: Returns whether the network may use the service without credentials.
        certificate_expiry: Returns when the TLS certificate expires; None without one.
        drift_states: Returns what changed. It is called often and must return at once.
    """

    readiness: ReadinessCheck
    store_health: StoreHealth
    folders: Mapping[str, Path]
    dead_letters: Callable[[], Mapping[str, int]]
    is_insecure: Callable[[], bool]
    certificate_expiry: Callable[[], datetime | None] = no_certificate
    drift_states: Callable[[], Sequence[DriftState]] = no_drift


@dataclass
class _Streak:
    length: int = 0
    last_id: str = ""
    reasons: str | None = None


class AlarmService:
    """Examines what is abnormal, periodically.

    Args:
        sources: What is examined.
        registry: The products and the recipes in force.
        store: The inspections.
        feed: The inspections in the order in which they were stored.
        shifts: Counts refused images per shift; it is called regularly.
    """

    def __init__(
        self, sources: AlarmSources, registry: Registry, store: Store, feed: InspectionFeed, shifts: ShiftService
    ) -> None:
        self._sources = sources
        self._registry = registry
        self._engine = store.engine
        self._feed = feed
        self._shifts = shifts
        self._alarms: tuple[Alarm, ...] = ()
        self._slow: list[Alarm] = []
        self._slow_due = 0
        self._mark: Mark | None = None
        self._rates: dict[str, FailRate] = {}
        self._streaks: OrderedDict[tuple[str, str | None], _Streak] = OrderedDict()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="alarms", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def current(self, principal: Principal, product: str | None = None, station: str | None = None) -> Sequence[Alarm]:
        """Return the alarms that a principal may see, the most severe first, and the newest first among those.

        Args:
            principal: Who asks.
            product: Leave out alarms of other products.
            station: Leave out alarms of other stations.
        """
        return [
            _as_shown_to(principal, alarm)
            for alarm in self._alarms
            if _may_see(principal, alarm)
            and product in {None, alarm.product or product}
            and station in {None, alarm.station or station}
        ]

    def refresh(self) -> None:
        """Examine everything once."""
        found = [*self._service(), *self._drift()]
        try:
            self._read_inspections()
        except StoreUnavailable as error:
            # Only if the probe does not report it anyway.
            if not any(alarm.kind == "store" for alarm in found):
                found.append(Alarm("store", "critical", values={"reason": error.reason}))
        found += [*self._fail_rates(), *self._invalid_images()]
        if self._slow_due <= 0:
            self._slow, self._slow_due = self._examine_slowly(), int(_SLOW_INTERVAL_S / INTERVAL_S)
        self._slow_due -= 1
        self._shifts.count_refused()
        since = {alarm.key: alarm.since for alarm in self._alarms}
        kept = [
            alarm
            if alarm.kind in {"drift", "guarantee-suspended"}
            else replace(alarm, since=since.get(alarm.key, alarm.since))
            for alarm in (*found, *self._slow)
        ]
        self._alarms = tuple(sorted(kept, key=lambda alarm: (_ORDER[alarm.severity], -alarm.since.timestamp())))

    def _work(self) -> None:
        has_failed = False
        while not self._closing.wait(INTERVAL_S):
            try:
                self.refresh()
                has_failed = False
            except Exception:  # the thread must survive any error
                if not has_failed:
                    log.exception("alarms cannot be examined")
                has_failed = True

    def _service(self) -> list[Alarm]:
        found, report = [], self._sources.readiness()
        problems = self._sources.store_health.problems
        if problems:
            found.append(Alarm("store", "critical", values={"reason": " ".join(problems)}))
        reasons = [reason for reason in report.reasons if reason not in problems]
        if not report.is_ready and (reasons or not problems):
            values: dict[str, Value] = {"status": report.status, "reason": " ".join(reasons[:_MAX_REASONS])}
            found.append(Alarm("not-ready", "critical", values=values))
        elif report.status == "degraded":
            found += [
                Alarm("degraded", "warning", broken.product, values={"reason": broken.reason})
                for broken in report.broken_bundles
            ]
            found += [
                Alarm("degraded", "warning", product, values={"reason": "It is still being loaded."})
                for product in sorted(self._registry.delayed)
            ]
        if self._sources.is_insecure():
            found.append(Alarm("insecure", "warning"))
        return found

    def _drift(self) -> list[Alarm]:
        return [
            Alarm(
                "guarantee-suspended" if state.is_suspended else "drift",
                "critical" if state.is_suspended else "warning",
                state.product,
                state.station,
                state.since,
                {"name": state.cause},
            )
            for state in self._sources.drift_states()
        ]

    def _examine_slowly(self) -> list[Alarm]:
        """Return the alarms whose causes change slowly or take longer to examine."""
        found: list[Alarm] = []
        for name, folder in self._sources.folders.items():
            try:
                usage = shutil.disk_usage(folder)
            except OSError as error:
                found.append(Alarm("disk", "critical", values={"name": name, "reason": error.strerror or str(error)}))
                continue
            share = usage.free / usage.total if usage.total else 0.0
            is_full = share < FULL_SHARE or usage.free < FULL_BYTES
            if is_full or share < MIN_FREE_SHARE:
                values: dict[str, Value] = {"name": name, "free_bytes": usage.free, "free_share": share}
                found.append(Alarm("disk", "critical" if is_full else "warning", values=values))
        expiry = self._sources.certificate_expiry()
        if expiry is not None and (left := expiry - datetime.now(UTC)) < EXPIRY_WARNING:
            severity: Severity = "critical" if left < timedelta() else "warning"
            found.append(Alarm("certificate", severity, values={"expires_at": expiry.isoformat()}))
        try:
            sinks = self._sources.dead_letters()
        except StoreUnavailable:
            return found
        return found + [
            Alarm("dead-letters", "warning", values={"name": name, "count": count})
            for name, count in sinks.items()
            if count
        ]

    def _read_inspections(self) -> None:
        """Take note of what was stored since the last call; at first, of the newest inspections of each product."""
        until = self._feed.head()
        if self._mark is None:
            self._read_newest()
            self._mark = until
            return
        while True:
            entries = self._feed.read(self._mark, until, _PAGE)
            for entry in entries:
                self._add(entry.product, entry.station, entry.decision, entry.id)
            self._mark = until if len(entries) < _PAGE else entries[-1].mark
            if len(entries) < _PAGE:
                return

    def _read_newest(self) -> None:
        # A former attempt may have ended with an error.
        self._rates.clear()
        self._streaks.clear()
        for product in self._registry.known:
            which = InspectionFilter(product=product)
            # Whole records of all products, with regions and measurements, would take minutes with many products.
            for row in reversed(read_columns(self._engine, OUTCOMES, which, limit=REFERENCE + max(WINDOWS))):
                self._add(row["product"], row["station"], row["decision"], row["id"])

    def _add(self, product: str, station: str | None, decision: str, inspection_id: str) -> None:
        self._rates.setdefault(product, FailRate()).add(decision)
        streak = self._streaks.pop((product, station), None) or _Streak()
        self._streaks[product, station] = streak
        if len(self._streaks) > _MAX_STATIONS:
            self._streaks.popitem(last=False)
        streak.length = streak.length + 1 if decision == "invalid" else 0
        streak.last_id, streak.reasons = inspection_id, None

    def _fail_rates(self) -> list[Alarm]:
        found = []
        for product, rate in self._rates.items():
            active = self._registry.active.get(product)
            permitted = None if active is None else active.recipe.recipe.target_false_reject_rate
            jump = rate.jump(permitted)
            if jump is not None:
                values: dict[str, Value] = {
                    "failed": jump.failed,
                    "parts": jump.parts,
                    "rate": jump.failed / jump.parts,
                    "usual_rate": jump.usual_rate,
                }
                found.append(Alarm("fail-rate", "critical", product, values=values))
        return found

    def _invalid_images(self) -> list[Alarm]:
        found = []
        for (product, station), streak in self._streaks.items():
            if streak.length < INVALID_STREAK:
                continue
            if streak.reasons is None:
                streak.reasons = self._reasons(streak.last_id)
            values: dict[str, Value] = {"count": streak.length, "reason": streak.reasons}
            found.append(Alarm("invalid-images", "critical", product, station, values=values))
        return found

    def _reasons(self, inspection_id: str) -> str:
        """Return why the quality check rejected an image, such as "too-dark, blurred"."""
        try:
            [record] = list_inspections(self._engine, InspectionFilter(ids=(UUID(inspection_id),)), limit=1)
        except (StoreUnavailable, ValueError):
            return ""
        return ", ".join(dict.fromkeys(str(one["reason"]) for one in record.objections or []))


def _as_shown_to(principal: Principal, alarm: Alarm) -> Alarm:
    """Return an alarm without the names of products that the principal may not use."""
    if principal.is_restricted and alarm.kind == "not-ready" and alarm.values["status"] == "not-ready":
        return replace(alarm, values={**alarm.values, "reason": _HIDDEN_REASON})
    return alarm


def _may_see(principal: Principal, alarm: Alarm) -> bool:
    if not principal.is_restricted:
        return True
    if alarm.product is None:
        return alarm.kind in _OF_EVERYONE
    if alarm.station is None:
        return principal.products is None or alarm.product in principal.products
    return principal.may_use(alarm.product, alarm.station)
