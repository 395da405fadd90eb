"""Streams: what is monitored of a product or of one of its stations, one stream per kind of drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from service.monitoring.drift import ranks, rejects
from service.monitoring.drift.detector import Detector, evidence_of
from service.monitoring.drift.false_rejects import FalseRejects
from service.monitoring.drift.history import History
from service.monitoring.drift.ranks import Ranks, tie_key
from service.monitoring.drift.records import Limits, Observation, Reference, StoredStream
from service.monitoring.drift.rejects import RejectRate
from service.schemas.drift import DriftDirection, DriftKind, DriftState, ReferenceSource

MEASURES: Mapping[DriftKind, tuple[str, ...]] = {
    "p_value": ("score",),
    "brightness": ("brightness",),
    "contrast": ("contrast",),
    "sharpness": ("sharpness",),
    "colour": ("red_share", "blue_share"),
}
"""The measured values of the kinds that compare ranks; "score" or a field of `Quality`."""
PENDING = 0
FIRST_INSPECTIONS = 100
"""Number of inspections that are the reference if there are no reference values of calibration images."""


class Stream:
    """One stream. Subclasses compute the wealth of its bets.

    Attributes:
        kind: What is monitored.
        station: The station; None for the whole product.
        reference: Key of the reference.
        source: Where the reference values come from.
        started_at: When the stream began, or was last acknowledged.
        count: Number of inspections since the stream began.
        history: The course of the evidence.
        alarm_id: The stored alarm that is open; `PENDING` before it is stored, None without one.
        suspends: Whether the alarm suspends the guarantee.
        has_new_reference: Whether `reference_to_stored` has not been stored yet.
    """

    def __init__(self, kind: DriftKind, station: str | None, reference: Reference, moment: datetime) -> None:
        self.kind = kind
        self.station = station
        self.reference = reference.key
        self.source: ReferenceSource = "inspections"
        self.started_at = moment
        self.count = 0
        self.history = History()
        self.alarm_id: int | None = None
        self.suspends = False
        self.has_new_reference = True

    @property
    def wealth(self) -> float:
        """Wealth of the bets."""
        raise NotImplementedError

    @property
    def onset(self) -> datetime | None:
        """Estimated start of the change."""
        raise NotImplementedError

    @property
    def reference_count(self) -> int:
        """Number of reference values; 0 while they are collected, and for kinds without them."""
        return 0

    @property
    def is_collecting(self) -> bool:
        """Whether the reference is still being collected."""
        return False

    @property
    def direction(self) -> DriftDirection | None:
        """What the strongest bet is on: "higher", "lower" or "wider"; None without evidence."""
        return "higher"

    @property
    def evidence(self) -> float:
        """Decimal logarithm of the wealth, at least 0."""
        return evidence_of(self.wealth)

    @property
    def state(self) -> DriftState:
        """Whether an alarm is open."""
        if self.alarm_id is not None:
            return "alarm"
        return "collecting" if self.is_collecting else "ok"

    def observe(self, observation: Observation) -> None:
        """Count an inspection, in the order of ids."""
        raise NotImplementedError

    def check(self, limits: Limits) -> bool:
        """Raise an alarm if the evidence reached its limit. Return whether that, or what it suspends, is new.

        Args:
            limits: The limits.
        """
        before = (self.alarm_id is None, self.suspends)
        wealth = self.wealth
        if self.alarm_id is None and wealth >= limits.wealth(self.kind):
            self.alarm_id = PENDING
        if self.alarm_id is not None and wealth >= limits.inspections:
            self.suspends = True
        return before != (self.alarm_id is None, self.suspends)

    def restart(self, moment: datetime) -> None:
        """Start anew with no evidence, after an alarm was acknowledged.

        Counts are kept: with them, the bets are fair given everything that was seen.
        """
        self.started_at = moment
        self.alarm_id = None
        self.suspends = False
        self.history = History()

    def reference_to_stored(self) -> dict[str, Any]:
        """Return what does not change with every inspection, as JSON-serialisable values."""
        return {}

    def to_stored(self) -> dict[str, Any]:
        """Return everything else, as JSON-serialisable values."""
        raise NotImplementedError

    def restore(self, stored: StoredStream) -> None:
        """Continue from a stored state."""
        self.source, self.started_at, self.count = stored.source, stored.started_at, stored.count
        self.alarm_id = stored.alarm_id
        self.history = History.from_stored(stored.history)
        self.has_new_reference = False

    def _count(self, moment: float) -> None:
        self.count += 1
        self.history.add(moment, self.evidence)


class RankStream(Stream):
    """Ranks of one or two measured values among reference values. The wealth is the mean over the values."""

    def __init__(self, kind: DriftKind, station: str | None, reference: Reference, moment: datetime) -> None:
        super().__init__(kind, station, reference, moment)
        self._measures = MEASURES[kind]
        self._detectors = [Detector(ranks.BET_WEIGHTS) for _ in self._measures]
        self._collected: list[list[float]] = []
        self._ranks: list[Ranks] = []
        if all(reference.values.get(measure) for measure in self._measures):
            self.source = reference.source
            self._ranks = [
                Ranks.of(reference.values[measure], f"{reference.key} {measure}") for measure in self._measures
            ]

    @property
    def wealth(self) -> float:
        """Wealth of the bets."""
        return sum(detector.wealth for detector in self._detectors) / len(self._detectors)

    @property
    def onset(self) -> datetime | None:
        """Estimated start of the change."""
        return _time(self._strongest.onset)

    @property
    def direction(self) -> DriftDirection | None:
        """What the strongest bet is on."""
        return ranks.SIDES[self._strongest.strongest] if self.wealth > 0 else None

    @property
    def reference_count(self) -> int:
        """Number of reference values."""
        return self._ranks[0].reference_count if self._ranks else 0

    @property
    def is_collecting(self) -> bool:
        """Whether the reference is still being collected."""
        return not self._ranks

    def observe(self, observation: Observation) -> None:
        """Count an inspection.

        Nothing is counted while an alarm is open, because the counts must not adapt to the change.
        """
        if self.alarm_id is not None or not observation.is_accepted:
            return
        values = [self._value(observation, measure) for measure in self._measures]
        if any(value is None for value in values):
            return  # stored by an older version, which did not measure it
        found = [value for value in values if value is not None]
        if not self._ranks:
            self._collect(found)
        else:
            for measure, value, rank, detector in zip(self._measures, found, self._ranks, self._detectors, strict=True):
                detector.update(rank.add(value, tie_key(observation.id, measure)), observation.moment)
        self._count(observation.moment)

    def restart(self, moment: datetime) -> None:
        """Start anew with no evidence."""
        super().restart(moment)
        for detector in self._detectors:
            detector.reset()

    def reference_to_stored(self) -> dict[str, Any]:
        """Return the reference values."""
        return {"ranks": [rank.reference_to_stored() for rank in self._ranks]}

    def to_stored(self) -> dict[str, Any]:
        """Return the counts and the wealth."""
        return {
            "ranks": [rank.to_stored() for rank in self._ranks],
            "detectors": [detector.to_stored() for detector in self._detectors],
            "collected": self._collected,
        }

    def restore(self, stored: StoredStream) -> None:
        """Continue from a stored state."""
        super().restore(stored)
        pairs = zip(stored.reference["ranks"], stored.progress["ranks"], strict=True)
        self._ranks = [Ranks.from_stored(fixed, counts) for fixed, counts in pairs]
        self._detectors = [Detector(ranks.BET_WEIGHTS).restore(item) for item in stored.progress["detectors"]]
        self._collected = [list(values) for values in stored.progress["collected"]]

    @property
    def _strongest(self) -> Detector:
        return max(self._detectors, key=lambda detector: detector.wealth)

    def _value(self, observation: Observation, measure: str) -> float | None:
        return observation.score if measure == "score" else observation.quality.get(measure)

    def _collect(self, values: list[float]) -> None:
        self._collected.append(values)
        if len(self._collected) == FIRST_INSPECTIONS:
            columns = zip(*self._collected, strict=True)
            self._ranks = [
                Ranks.of(column, f"{self.reference} {measure}")
                for measure, column in zip(self._measures, columns, strict=True)
            ]
            self._collected = []
            self.has_new_reference = True


class RejectStream(Stream):
    """The share of parts that fail."""

    def __init__(self, kind: DriftKind, station: str | None, reference: Reference, moment: datetime) -> None:
        super().__init__(kind, station, reference, moment)
        self._rate = RejectRate()
        self._detector = Detector(rejects.BET_WEIGHTS)

    @property
    def wealth(self) -> float:
        """Wealth of the bets."""
        return self._detector.wealth

    @property
    def onset(self) -> datetime | None:
        """Estimated start of the change."""
        return _time(self._detector.onset)

    def observe(self, observation: Observation) -> None:
        """Count an inspection. The evidence may grow after the alarm until it suspends the guarantee."""
        self._detector.update(self._rate.add(observation.is_reject), observation.moment)
        self._count(observation.moment)

    def restart(self, moment: datetime) -> None:
        """Start anew with no evidence."""
        super().restart(moment)
        self._detector.reset()

    def to_stored(self) -> dict[str, Any]:
        """Return the rate and the wealth."""
        return {"rate": self._rate.to_stored(), "detector": self._detector.to_stored()}

    def restore(self, stored: StoredStream) -> None:
        """Continue from a stored state."""
        super().restore(stored)
        self._rate = RejectRate.from_stored(stored.progress["rate"])
        self._detector.restore(stored.progress["detector"])


class FalseRejectStream(Stream):
    """The share of inspections that fail and are labelled good by reviews."""

    def __init__(self, kind: DriftKind, station: str | None, reference: Reference, moment: datetime) -> None:
        super().__init__(kind, station, reference, moment)
        assert reference.false_reject_bound is not None, "without a bound there is no such stream"
        self._found = FalseRejects(reference.false_reject_bound)

    @property
    def wealth(self) -> float:
        """Wealth of the bets."""
        return self._found.wealth

    @property
    def onset(self) -> datetime | None:
        """Estimated start of the change."""
        return _time(self._found.onset)

    @property
    def start(self) -> str | None:
        """Id of the first inspection; None without inspections."""
        return self._found.start

    def observe(self, observation: Observation) -> None:
        """Count an inspection; the evidence changes with the labels only."""
        self._found.add(observation.id, observation.moment, observation.is_reject)
        self.count += 1

    def label(self, labelled_good: Sequence[str], moment: float) -> None:
        """Compute the evidence.

        Args:
            labelled_good: Ids of the failed inspections since `start` that are labelled good.
            moment: The present time, in seconds since 1970.
        """
        if self.alarm_id is None:
            self._found.update(labelled_good)
            self.history.add(moment, self.evidence)

    def restart(self, moment: datetime) -> None:
        """Start anew with no evidence."""
        super().restart(moment)
        self._found = FalseRejects(self._found.rate)

    def reference_to_stored(self) -> dict[str, Any]:
        """Return the bound."""
        return {"rate": self._found.rate}

    def to_stored(self) -> dict[str, Any]:
        """Return the counts."""
        return self._found.to_stored()

    def restore(self, stored: StoredStream) -> None:
        """Continue from a stored state."""
        super().restore(stored)
        self._found = FalseRejects.from_stored(stored.reference["rate"], stored.progress)


def make_streams(station: str | None, reference: Reference, moment: datetime) -> dict[DriftKind, Stream]:
    """Return the streams of a product or station, by kind.

    Args:
        station: The station; None for the whole product.
        reference: What they are compared with.
        moment: The present time.
    """
    kinds: dict[DriftKind, type[Stream]] = dict.fromkeys(MEASURES, RankStream)
    kinds["reject_rate"] = RejectStream
    if reference.false_reject_bound is not None:
        kinds["false_reject"] = FalseRejectStream
    return {kind: make(kind, station, reference, moment) for kind, make in kinds.items()}


def _time(moment: float | None) -> datetime | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC)
