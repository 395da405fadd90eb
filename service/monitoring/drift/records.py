"""Records of drift monitoring: what the streams receive, and their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from service.monitoring.drift.detector import evidence_of
from service.schemas.drift import DriftKind, ReferenceSource

KINDS: tuple[DriftKind, ...] = get_args(DriftKind)
IMAGE_KINDS: tuple[DriftKind, ...] = ("brightness", "contrast", "sharpness", "colour")


@dataclass(frozen=True)
class Observation:
    """What the streams need of a judged inspection.

    Attributes:
        id: Its id.
        moment: Its time, in seconds since 1970.
        station: Its station, or None.
        score: Its raw score.
        fail_threshold: The fail threshold that was applied.
        is_reject: Whether the decision is fail.
        quality: Quality measures of the image, by name.
    """

    id: str
    moment: float
    station: str | None
    score: float
    fail_threshold: float
    is_reject: bool
    quality: Mapping[str, float]

    @property
    def is_accepted(self) -> bool:
        """Whether it is compared with good images.

        Rejected parts are left out, on both sides: defects would count as drift. Given that a score is below the
        threshold, it is exchangeable with the calibration scores below it.
        """
        return not self.is_reject and self.score < self.fail_threshold


@dataclass(frozen=True)
class Limits:
    """When an alarm is raised. See `Detector` for what it means.

    Attributes:
        inspections: Inspections of a stream in which at most one false alarm is expected.
        reject_rate_inspections: The same for the reject rate. A limit of its own, because steps of a small rate take
            long to find.
    """

    inspections: float
    reject_rate_inspections: float

    def wealth(self, kind: DriftKind) -> float:
        """Return the wealth at which a stream raises an alarm."""
        return min(self.reject_rate_inspections, self.inspections) if kind == "reject_rate" else self.inspections

    def evidence(self, kind: DriftKind) -> float:
        """Return the same as evidence."""
        return evidence_of(self.wealth(kind))

    @property
    def suspending_evidence(self) -> float:
        """Evidence at which an alarm suspends the guarantee."""
        return evidence_of(self.inspections)


@dataclass(frozen=True)
class Reference:
    """What the streams of a product are compared with. Another reference starts all streams of the product anew.

    Attributes:
        key: Identifies everything that the streams depend on.
        source: Where the scores come from; "inspections" if there are none that inspections can be compared with.
        values: Reference values by measure. Measures without values are compared with the first inspections.
        false_reject_bound: The bound of the false-reject rate that reviews are compared with; None without a bound.
    """

    key: str
    source: ReferenceSource
    values: Mapping[str, Sequence[float]]
    false_reject_bound: float | None


@dataclass(frozen=True)
class StoredStream:
    """What a stream continues with after a restart of the service; see the methods of `Stream`."""

    source: ReferenceSource
    started_at: datetime
    count: int
    alarm_id: int | None
    reference: Mapping[str, Any]
    progress: Mapping[str, Any]
    history: Mapping[str, Any]
