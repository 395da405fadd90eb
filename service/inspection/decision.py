"""Criteria make verdicts: pass, review or fail, and the regions that show why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from service.bundle.arrays import Float32Map
from service.inspection.area import EVERYTHING, Area, BoolMask
from service.inspection.regions import NO_FILTER, Region, RegionFilter, find_regions


class Decision(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict, not a password
    REVIEW = "review"
    FAIL = "fail"
    INVALID = "invalid"  # the image is not worth a verdict; see quality.py


VERDICTS = (Decision.PASS, Decision.REVIEW, Decision.FAIL)


@dataclass(frozen=True)
class Thresholds:
    """Levels of the raw score. A part fails strictly above `fail` and needs review strictly above `review`.

    Raises:
        ValueError: `review` is greater than `fail`, or a level is not finite.
    """

    fail: float
    review: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.fail) and np.isfinite(self.review) and self.review <= self.fail):
            raise ValueError(f"expected finite review <= fail, got review {self.review} and fail {self.fail}")


@dataclass(frozen=True)
class Criteria:
    """What a part is judged by.

    Attributes:
        thresholds: Levels of the score, and of the map where regions are looked for.
        area: What of the image is judged.
        regions: Which regions count.
    """

    thresholds: Thresholds
    area: Area = EVERYTHING
    regions: RegionFilter = NO_FILTER


@dataclass(frozen=True)
class Verdict:
    """A decision and the regions that it rests on.

    Attributes:
        decision: What becomes of the part.
        by_score: What the score alone says. The two differ only where region filters softened the decision.
        regions: Where the evidence lies; empty exactly when the part passes.
        dropped: How many regions above the level of `by_score` do not count, by the filter that says so.
    """

    decision: Decision
    by_score: Decision
    regions: tuple[Region, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


def decide(score: float, thresholds: Thresholds) -> Decision:
    """What the score says. A score that is not a number fails: what cannot be judged is not good."""
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
    """The verdict on a part.

    The score is above a level only where a judged cell is, so it always has a region to show. A part fails when its
    score is above the fail threshold *and* a region above the fail threshold counts. Where all of these are filtered
    out, the same question is asked at the review threshold. So a filter can make a verdict milder and never harsher:
    what bounds the share of good parts that score above a threshold bounds those that are rejected.

    Args:
        score: Of the map, over the judged cells.
        anomaly_map: float32 [h, w], times the score gain.
        criteria: What to judge by.
        image_wh: Width and height of the image that was sent, in pixels.
        judged: bool [h, w], the cells of the map inside the criteria's area; None means all.
    """
    thresholds = criteria.thresholds
    by_score = decide(score, thresholds)
    levels = [(Decision.FAIL, thresholds.fail), (Decision.REVIEW, thresholds.review)]
    asked = {Decision.FAIL: levels, Decision.REVIEW: levels[1:], Decision.PASS: []}[by_score]
    dropped: Mapping[str, int] = {}
    for decision, level in asked:
        found = find_regions(anomaly_map, level, image_wh, criteria.regions, judged)
        if decision is by_score:
            dropped = found.dropped
        if found.kept:
            return Verdict(decision, by_score, found.kept, dropped)
    return Verdict(Decision.PASS, by_score, (), dropped)
