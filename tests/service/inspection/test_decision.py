from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.bundle.manifest import ScoreRule
from service.inspection.area import BoolMask
from service.inspection.calibration import certify, p_value
from service.inspection.decision import Criteria, Decision, Thresholds, Verdict, decide, judge
from service.inspection.regions import NO_FILTER, RegionFilter
from service.inspection.scoring import image_score

HARSHNESS = {Decision.PASS: 0, Decision.REVIEW: 1, Decision.FAIL: 2}
RULE = ScoreRule(fraction=0.1)
THRESHOLDS = Thresholds(fail=2.0, review=1.0)

maps = hnp.arrays(np.float32, (5, 7), elements=st.floats(0, 10, width=32))
masks = st.none() | hnp.arrays(np.bool_, (5, 7)).filter(np.any)
sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
levels = st.tuples(st.floats(0, 10, width=32), st.floats(0, 10, width=32)).map(sorted)
filters = st.builds(
    RegionFilter,
    merge_distance_px=st.floats(0, 2000),
    border_margin_px=st.floats(0, 500),
    min_area_px=st.floats(0, 1e6),
    min_peak=st.floats(0, 10),
    max_count=st.integers(1, 5),
)


@pytest.mark.parametrize(
    ("score", "decision"),
    [
        (0.0, Decision.PASS),
        (1.0, Decision.PASS),
        (math.nextafter(1.0, 2.0), Decision.REVIEW),
        (2.0, Decision.REVIEW),
        (math.nextafter(2.0, 3.0), Decision.FAIL),
        (math.inf, Decision.FAIL),
        (math.nan, Decision.FAIL),
    ],
)
def test_decision_at_and_around_the_thresholds(score: float, decision: Decision) -> None:
    assert decide(score, THRESHOLDS) is decision


@pytest.mark.parametrize(("fail", "review"), [(1.0, 2.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_invalid_thresholds_are_refused(fail: float, review: float) -> None:
    with pytest.raises(ValueError, match="review <= fail"):
        Thresholds(fail=fail, review=review)


def judge_map(
    anomaly_map: npt.NDArray[np.float32],
    criteria: Criteria,
    image_wh: tuple[int, int] = (700, 500),
    judged: BoolMask | None = None,
) -> Verdict:
    return judge(image_score(anomaly_map, RULE, judged), anomaly_map, criteria, image_wh, judged)


def spots(*values: float) -> npt.NDArray[np.float32]:
    """Return a map with cells of 100 x 100 pixels and one 2 x 2 block per value, away from each other and the edge."""
    anomaly_map = np.zeros((5, 7), np.float32)
    for number, value in enumerate(values):
        anomaly_map[1:3, 1 + 3 * number : 3 + 3 * number] = value
    return anomaly_map


@pytest.mark.parametrize(
    ("anomaly_map", "region_filter", "decision", "by_score", "regions", "dropped"),
    [
        (spots(3.0), NO_FILTER, Decision.FAIL, Decision.FAIL, 1, {}),
        (spots(1.5), NO_FILTER, Decision.REVIEW, Decision.REVIEW, 1, {}),
        (spots(0.5), NO_FILTER, Decision.PASS, Decision.PASS, 0, {}),
        # All regions are filtered out at both thresholds: pass.
        (spots(3.0), RegionFilter(min_area_px=200_000), Decision.PASS, Decision.FAIL, 0, {"area": 1}),
        (spots(1.5), RegionFilter(min_area_px=200_000), Decision.PASS, Decision.REVIEW, 0, {"area": 1}),
        # Too small above the fail threshold, large enough above the review threshold.
        (spots(3.0), RegionFilter(min_area_px=40_000), Decision.REVIEW, Decision.FAIL, 1, {"area": 1}),
        (spots(3.0), RegionFilter(min_peak=3.5), Decision.PASS, Decision.FAIL, 0, {"peak": 1}),
        (spots(3.0), RegionFilter(border_margin_px=320), Decision.PASS, Decision.FAIL, 0, {"border": 1}),
        # One of two regions is sufficient.
        (spots(3.0, 5.0), RegionFilter(min_peak=4.0), Decision.FAIL, Decision.FAIL, 1, {"peak": 1}),
        # Limiting the report does not change the verdict.
        (spots(3.0, 5.0), RegionFilter(max_count=1), Decision.FAIL, Decision.FAIL, 1, {}),
        # Filters do not change a pass.
        (spots(0.5), RegionFilter(min_peak=0.1), Decision.PASS, Decision.PASS, 0, {}),
    ],
)
def test_filters_make_the_verdict_milder(
    anomaly_map: npt.NDArray[np.float32],
    region_filter: RegionFilter,
    decision: Decision,
    by_score: Decision,
    regions: int,
    dropped: dict[str, int],
) -> None:
    verdict = judge_map(anomaly_map, Criteria(THRESHOLDS, regions=region_filter))

    assert (verdict.decision, verdict.by_score) == (decision, by_score)
    assert len(verdict.regions) == regions
    assert verdict.dropped == dropped


@given(maps, masks, levels, sizes, filters)
def test_verdict_and_regions_are_consistent(
    anomaly_map: npt.NDArray[np.float32],
    judged: BoolMask | None,
    thresholds: list[float],
    image_wh: tuple[int, int],
    region_filter: RegionFilter,
) -> None:
    criteria = Criteria(Thresholds(fail=thresholds[1], review=thresholds[0]), regions=region_filter)

    verdict = judge_map(anomaly_map, criteria, image_wh, judged)

    assert bool(verdict.regions) == (verdict.decision is not Decision.PASS)
    assert HARSHNESS[verdict.decision] <= HARSHNESS[verdict.by_score], "a filter makes the verdict milder or keeps it"
    if verdict.decision is not verdict.by_score:
        assert sum(verdict.dropped.values()) > 0, "dropped regions are counted"
    level = criteria.thresholds.fail if verdict.decision is Decision.FAIL else criteria.thresholds.review
    for region in verdict.regions:
        assert region.peak > level
        assert region.peak >= region_filter.min_peak
        assert region.area_px >= region_filter.min_area_px
    assert len(verdict.regions) <= region_filter.max_count


@given(maps, masks, levels, sizes)
def test_without_filters_the_score_decides(
    anomaly_map: npt.NDArray[np.float32],
    judged: BoolMask | None,
    thresholds: list[float],
    image_wh: tuple[int, int],
) -> None:
    criteria = Criteria(Thresholds(fail=thresholds[1], review=thresholds[0]))

    verdict = judge_map(anomaly_map, criteria, image_wh, judged)

    assert verdict.decision is verdict.by_score
    assert verdict.dropped == {}


@pytest.mark.slow
@given(
    st.lists(maps, min_size=9, max_size=30),
    st.sampled_from([0.1, 0.2, 1 / 3, 0.5]),
    maps,
    masks,
    filters,
    st.booleans(),
)
def test_score_p_value_and_decision_agree_and_the_guarantee_holds_with_area_and_filters(
    good: list[npt.NDArray[np.float32]],
    alpha: float,
    anomaly_map: npt.NDArray[np.float32],
    judged: BoolMask | None,
    region_filter: RegionFilter,
    repeat: bool,
) -> None:
    """A part fails by its score exactly if its p-value is at most alpha.

    This includes calibration images, with scores exactly at a possible threshold. With an area and filters a part fails
    only if it also fails without them.
    """
    scores = sorted(image_score(one, RULE) for one in good)
    level = certify(scores, alpha).value
    part = good[0] if repeat else anomaly_map
    criteria = Criteria(Thresholds(fail=level, review=level), regions=region_filter)

    score = image_score(part, RULE, judged)
    verdict = judge_map(part, criteria, judged=judged)
    whole = judge_map(part, Criteria(criteria.thresholds))

    assert (verdict.by_score is Decision.FAIL) == (score > level) == (p_value(scores, score) <= alpha)
    assert verdict.decision is not Decision.FAIL or whole.decision is Decision.FAIL
