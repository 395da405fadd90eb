import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.inspection.decision import Decision, Thresholds, decide, find_regions


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
    assert decide(score, Thresholds(fail=2.0, review=1.0)) is decision


@pytest.mark.parametrize(("fail", "review"), [(1.0, 2.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_senseless_thresholds_are_refused(fail: float, review: float) -> None:
    with pytest.raises(ValueError, match="review <= fail"):
        Thresholds(fail=fail, review=review)


def test_region_is_reported_in_pixels_of_the_image_that_was_sent() -> None:
    anomaly_map = np.zeros((8, 16), np.float32)
    anomaly_map[2:4, 10:13] = 5.0
    anomaly_map[3, 11] = 9.0

    (region,) = find_regions(anomaly_map, 2.5, (1600, 400))  # a cell is 100 wide and 50 high

    x, y, width, height = region.bbox
    assert (x, y) == pytest.approx((1000, 100), abs=50)
    assert (x + width, y + height) == pytest.approx((1300, 200), abs=50)
    assert region.peak == 9.0
    assert region.peak_xy == (1150, 175)
    assert region.area_px == pytest.approx(300 * 100, rel=0.35)
    assert all(x <= px <= x + width and y <= py <= y + height for px, py in region.polygon)


def test_separate_defects_are_separate_regions_strongest_first() -> None:
    anomaly_map = np.zeros((16, 16), np.float32)
    anomaly_map[2, 2], anomaly_map[12, 12], anomaly_map[2, 12] = 3.0, 7.0, 5.0

    regions = find_regions(anomaly_map, 1.0, (16, 16))

    assert [region.peak for region in regions] == [7.0, 5.0, 3.0]
    assert find_regions(anomaly_map, 1.0, (16, 16), limit=1) == regions[:1]


@given(
    hnp.arrays(np.float32, (5, 7), elements=st.floats(0, 10, width=32)),
    st.floats(0, 10),
    st.integers(1, 3000),
    st.integers(1, 3000),
)
def test_there_is_a_region_exactly_when_a_cell_lies_above_the_level(
    anomaly_map: npt.NDArray[np.float32],
    level: float,
    width: int,
    height: int,
) -> None:
    level = float(np.float32(level))

    regions = find_regions(anomaly_map, level, (width, height))

    assert bool(regions) == bool((anomaly_map > level).any())
    for region in regions:
        x, y, region_width, region_height = region.bbox
        assert 0 <= x <= x + region_width <= width
        assert 0 <= y <= y + region_height <= height
        assert len(region.polygon) >= 3
        assert region.area_px >= 1
        assert region.peak > level


def test_whole_picture_as_one_region() -> None:
    (region,) = find_regions(np.ones((4, 4), np.float32), 0.5, (100, 60))

    assert region.bbox == (0, 0, 100, 60)
    assert region.area_px == 6000
