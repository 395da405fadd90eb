"""From score and anomaly map to a verdict: pass, review or fail, and the regions that are the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from service.bundle.arrays import Float32Map
from service.inspection.area import EVERYTHING, Area, BoolMask
from service.inspection.regions import NO_FILTER, Region, RegionFilter, find_regions


class Decision(StrEnum):
    """The decision about a part or image."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    REVIEW = "review"
    FAIL = "fail"
    INVALID = "invalid"  # rejected by the quality check; see quality.py


VERDICTS = (Decision.PASS, Decision.REVIEW, Decision.FAIL)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the raw score. A part fails strictly above `fail` and needs review strictly above `review`.

    Raises:
        ValueError: `review` is greater than `fail`, or a threshold is not finite.
    """

    fail: float
    review: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.fail) and np.isfinite(self.review) and self.review <= self.fail):
            raise ValueError(f"expected finite review <= fail, got review {self.review} and fail {self.fail}")


@dataclass(frozen=True)
class Criteria:
    """The criteria of a verdict.

    Attributes:
        thresholds: Thresholds of the score, which also apply to the map when regions are searched.
        area: The part of the image that is judged.
        regions: Filters for regions.
    """

    thresholds: Thresholds
    area: Area = EVERYTHING
    regions: RegionFilter = NO_FILTER


@dataclass(frozen=True)
class Verdict:
    """A decision and the regions that it is based on.

    Attributes:
        decision: The decision about the part.
        by_score: The decision by the score alone. It differs from `decision` only where region filters made that
            milder.
        regions: The regions that caused the decision; empty exactly when the part passes.
        dropped: Number of regions above the threshold of `by_score` that were filtered out, by filter.
    """

    decision: Decision
    by_score: Decision
    regions: tuple[Region, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


def decide(score: float, thresholds: Thresholds) -> Decision:
    """Return the decision by the score alone. A score that is NaN fails."""
    if not score <= thresholds.fail:
        return Decision.FAIL
    return Decision.REVIEW if score > thresholds.review else Decision.PASS


def judge(
    score: float,
    anomaly_map: Float32Map,
    criteria: Criteria,
    image_wh: tuple[int, int],
    judged: BoolMask | None = None,
) -> Verdict:
    """Return the verdict on a part.

    The score exceeds a threshold only where a judged cell does, so there is always a region to show. A part fails when
    its score is above the fail threshold *and* at least one region above the fail threshold passes the filters. If all
    of these regions are filtered out, the review threshold is applied in the same way. So filters make a verdict
    milder, never harsher, and a bound on the share of good parts that score above a threshold also bounds the share
    that is rejected.

    Args:
        score: Score of the map over the judged cells.
        anomaly_map: float32 [h, w], times the score gain.
        criteria: The criteria.
        image_wh: Width and height of the image that was sent, in pixels.
        judged: bool [h, w], the cells of the map inside the criteria's area; None means all.
    """
    thresholds = criteria.thresholds
    by_score = decide(score, thresholds)
    levels = [(Decision.FAIL, thresholds.fail), (Decision.REVIEW, thresholds.review)]
    candidates = {Decision.FAIL: levels, Decision.REVIEW: levels[1:], Decision.PASS: []}[by_score]
    dropped: Mapping[str, int] = {}
    for decision, level in candidates:
        found = find_regions(anomaly_map, level, image_wh, criteria.regions, judged)
        if decision is by_score:
            dropped = found.dropped
        if found.kept:
            return Verdict(decision, by_score, found.kept, dropped)
    return Verdict(Decision.PASS, by_score, (), dropped)
