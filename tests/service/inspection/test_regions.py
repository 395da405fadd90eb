from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.inspection.area import BoolMask
from service.inspection.regions import Region, RegionFilter, find_regions


def test_region_is_in_pixels_of_the_sent_image() -> None:
    anomaly_map = np.zeros((8, 16), np.float32)
    anomaly_map[2:4, 10:13] = 5.0
    anomaly_map[3, 11] = 9.0

    (region,) = find_regions(anomaly_map, 2.5, (1600, 400)).kept  # a cell is 100 wide and 50 high

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

    regions = find_regions(anomaly_map, 1.0, (16, 16)).kept

    assert [region.peak for region in regions] == [7.0, 5.0, 3.0]
    assert find_regions(anomaly_map, 1.0, (16, 16), RegionFilter(max_count=1)).kept == regions[:1]


@given(
    hnp.arrays(np.float32, (5, 7), elements=st.floats(0, 10, width=32)),
    st.none() | hnp.arrays(np.bool_, (5, 7)),
    st.floats(0, 10),
    st.floats(0, 2000),
    st.integers(1, 3000),
    st.integers(1, 3000),
)
def test_there_is_a_region_exactly_if_a_judged_cell_is_above_the_threshold(
    anomaly_map: npt.NDArray[np.float32],
    judged: BoolMask | None,
    level: float,
    merge_distance_px: float,
    width: int,
    height: int,
) -> None:
    level = float(np.float32(level))

    found = find_regions(anomaly_map, level, (width, height), RegionFilter(merge_distance_px=merge_distance_px), judged)

    above = anomaly_map > level if judged is None else (anomaly_map > level) & judged
    assert bool(found.kept) == bool(above.any())
    assert found.dropped == {}
    for region in found.kept:
        x, y, region_width, region_height = region.bbox
        assert 0 <= x <= x + region_width <= width
        assert 0 <= y <= y + region_height <= height
        assert len(region.polygon) >= 3
        assert region.area_px >= 1
        assert region.peak > level


def test_single_cell_of_a_large_map_is_found() -> None:
    anomaly_map = np.zeros((700, 900), np.float32)
    anomaly_map[123, 456] = 1.0

    (region,) = find_regions(anomaly_map, 0.9, (3600, 2800)).kept

    x, y, width, height = region.bbox
    assert (x, y) == pytest.approx((456 * 4, 123 * 4), abs=4)
    assert max(width, height) <= 4
    assert region.peak == 1.0
    assert region.peak_xy == (456 * 4 + 2, 123 * 4 + 2)


def test_whole_image_as_one_region() -> None:
    (region,) = find_regions(np.ones((4, 4), np.float32), 0.5, (100, 60)).kept

    assert region.bbox == (0, 0, 100, 60)
    assert region.area_px == 6000


def test_region_ends_at_the_border_of_the_judged_area() -> None:
    anomaly_map = np.full((4, 4), 9.0, np.float32)
    judged = np.zeros((4, 4), np.bool_)
    judged[1:3, 1:3] = True

    (region,) = find_regions(anomaly_map, 1.0, (40, 40), judged=judged).kept

    assert region.bbox == (10, 10, 20, 20)


def test_unjudged_cells_do_not_influence_judged_ones() -> None:
    anomaly_map = np.zeros((4, 4), np.float32)
    anomaly_map[:, 0] = 99.0
    judged = np.ones((4, 4), np.bool_)
    judged[:, 0] = False

    assert find_regions(anomaly_map, 1.0, (40, 40), judged=judged).kept == ()


# Two cells of 10 x 10 pixels, in the middle and in the corner, four and a half cells apart in x and in y.
PAIR = np.zeros((9, 9), np.float32)
PAIR[0, 0], PAIR[5, 5] = 3.0, 7.0


def kept(filters: RegionFilter, anomaly_map: npt.NDArray[np.float32] = PAIR) -> list[Region]:
    size = (10 * anomaly_map.shape[1], 10 * anomaly_map.shape[0])
    return list(find_regions(anomaly_map, 2.0, size, filters).kept)


def test_filters_use_the_reported_values() -> None:
    strong, weak = kept(RegionFilter())
    assert (strong.peak, weak.peak) == (7.0, 3.0)

    for filters, expected in [
        (RegionFilter(min_peak=3.0), [strong, weak]),
        (RegionFilter(min_peak=3.1), [strong]),
        (RegionFilter(min_area_px=min(strong.area_px, weak.area_px)), [strong, weak]),
        (RegionFilter(min_area_px=max(strong.area_px, weak.area_px) + 1), []),
        (RegionFilter(max_count=1), [strong]),
    ]:
        assert kept(filters) == expected, filters


def test_only_regions_completely_in_the_border_are_dropped() -> None:
    anomaly_map = np.zeros((9, 9), np.float32)
    anomaly_map[0, 8] = 9.0  # in the corner
    anomaly_map[4, 0:4] = 9.0  # from the edge far into the image

    found = find_regions(anomaly_map, 2.0, (90, 90), RegionFilter(border_margin_px=20))

    assert [region.bbox[0] for region in found.kept] == [0]
    assert [region.peak_xy[1] for region in found.kept] == [45]
    assert found.dropped == {"border": 1}
    everything = find_regions(anomaly_map, 2.0, (90, 90), RegionFilter(border_margin_px=45))
    assert (everything.kept, everything.dropped) == ((), {"border": 2})


def test_close_pieces_are_merged_and_their_areas_added() -> None:
    scratch = np.zeros((3, 12), np.float32)
    scratch[1, [1, 4, 7]] = [5.0, 9.0, 5.0]  # two cells between the pieces: about 20 pixels, less by interpolation
    apart = kept(RegionFilter(merge_distance_px=5), scratch)
    assert len(apart) == 3

    (merged,) = kept(RegionFilter(merge_distance_px=20), scratch)

    assert merged.area_px == pytest.approx(sum(piece.area_px for piece in apart), abs=2)
    assert merged.peak == 9.0
    assert merged.peak_xy == (45, 15)
    left, right = min(piece.bbox[0] for piece in apart), max(piece.bbox[0] + piece.bbox[2] for piece in apart)
    assert (merged.bbox[0], merged.bbox[0] + merged.bbox[2]) == (left, right)
    xs = [x for x, _ in merged.polygon]
    assert min(xs) < 20, "the outline encloses all pieces"
    assert max(xs) > 70


@pytest.mark.parametrize("image_wh", [(120, 30), (1200, 30)])
def test_merge_distance_is_in_pixels_in_both_directions(image_wh: tuple[int, int]) -> None:
    """Samples are two pixels apart, or twenty in x, where a distance of 20 pixels is one sample."""
    scratch = np.zeros((3, 12), np.float32)
    scratch[1, [2, 5]] = 9.0
    gap_px = {(120, 30): 20, (1200, 30): 200}[image_wh]

    assert len(find_regions(scratch, 8.0, image_wh, RegionFilter(merge_distance_px=gap_px / 2)).kept) == 2
    assert len(find_regions(scratch, 8.0, image_wh, RegionFilter(merge_distance_px=gap_px * 2)).kept) == 1


def test_merging_comes_before_the_other_filters() -> None:
    scratch = np.zeros((3, 12), np.float32)
    scratch[1, [1, 4, 7]] = 5.0
    piece = max(region.area_px for region in kept(RegionFilter(), scratch))

    assert kept(RegionFilter(min_area_px=2 * piece), scratch) == []
    assert len(kept(RegionFilter(min_area_px=2 * piece, merge_distance_px=20), scratch)) == 1
