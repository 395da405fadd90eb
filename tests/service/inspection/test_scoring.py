from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.bundle.manifest import ScoreRule
from service.inspection.scoring import image_score

# Two overlapping tiles over a map of 4 x 6 cells.
WINDOWS = ((slice(0, 4), slice(0, 4)), (slice(0, 4), slice(2, 6)))
TEN = np.arange(10, dtype=np.float32).reshape(2, 5)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.01, 9.0),  # less than one cell: one cell
        (0.1, 9.0),
        (0.2, 8.5),
        (0.25, 8.0),  # two and a half cells: three
        (1.0, 4.5),
    ],
)
def test_score_is_the_mean_of_the_highest_cells(fraction: float, expected: float) -> None:
    assert image_score(TEN, ScoreRule(fraction=fraction)) == pytest.approx(expected)


@given(
    hnp.arrays(np.float32, (4, 6), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(0.01, 1.0),
)
def test_score_never_exceeds_the_highest_cell(anomaly_map: npt.NDArray[np.float32], fraction: float) -> None:
    assert image_score(anomaly_map, ScoreRule(fraction=fraction)) <= float(anomaly_map.max())


@given(
    hnp.arrays(np.float32, (4, 6), elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.bool_, (4, 6)).filter(np.any),
    hnp.arrays(np.bool_, (4, 6)),
    st.floats(0.01, 1.0),
    st.sampled_from([(), WINDOWS]),
)
def test_smaller_judged_area_never_raises_the_score(
    anomaly_map: npt.NDArray[np.float32],
    judged: npt.NDArray[np.bool_],
    more: npt.NDArray[np.bool_],
    fraction: float,
    windows: Sequence[tuple[slice, slice]],
) -> None:
    """Exactly, not up to rounding: a score may equal a calibration score of a whole image to the last bit."""
    rule = ScoreRule(fraction=fraction)
    score = image_score(anomaly_map, rule, judged, windows)

    assert score <= image_score(anomaly_map, rule, judged | more, windows)
    assert image_score(anomaly_map, rule, judged | more, windows) <= image_score(anomaly_map, rule, None, windows)
    assert score <= float(anomaly_map[judged].max()), "a score above a threshold implies a judged cell above it"


def test_number_of_averaged_cells_is_that_of_the_whole_map() -> None:
    rule = ScoreRule(fraction=0.2)  # two of ten cells

    assert image_score(TEN, rule, TEN >= 7) == image_score(TEN, rule) == 8.5
    assert image_score(TEN, rule, TEN < 5) == 3.5, "the mean of 4 and 3; the top fifth of five cells would be 4"
    assert image_score(TEN, rule, TEN == 9) == 4.5, "missing cells count as the lowest value of the map"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_map_with_nan_or_infinity_has_no_score(value: float) -> None:
    anomaly_map = TEN.copy()
    anomaly_map[0, 0] = value

    assert np.isnan(image_score(anomaly_map, ScoreRule(fraction=0.2)))


def test_score_of_judged_cells_is_that_of_the_whole_map_where_all_are_judged() -> None:
    assert image_score(TEN, ScoreRule(fraction=0.3), np.ones_like(TEN, np.bool_)) == 8.0


WINDOWS = ((slice(0, 4), slice(0, 4)), (slice(0, 4), slice(2, 6)))


def test_highest_tile_score_counts() -> None:
    anomaly_map = np.zeros((4, 6), np.float32)
    anomaly_map[0, :2] = (3.0, 1.0)

    assert image_score(anomaly_map, ScoreRule(fraction=2 / 16), windows=WINDOWS) == 2.0
    assert image_score(anomaly_map, ScoreRule(fraction=2 / 16)) == pytest.approx(4 / 3), "over the whole map: 3 cells"


@pytest.mark.parametrize("place", [(0, 0), (3, 5)])
def test_nan_in_one_tile_makes_the_score_nan(place: tuple[int, int]) -> None:
    anomaly_map = np.ones((4, 6), np.float32)
    anomaly_map[place] = np.nan

    assert np.isnan(image_score(anomaly_map, ScoreRule(fraction=0.1), windows=WINDOWS))


@given(
    hnp.arrays(np.float32, (4, 6), elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.bool_, (4, 6)).filter(lambda mask: bool(mask.any())),
    st.floats(0.01, 1.0),
)
def test_smaller_judged_area_of_a_tiled_image_never_raises_the_score(
    anomaly_map: npt.NDArray[np.float32], judged: npt.NDArray[np.bool_], fraction: float
) -> None:
    rule = ScoreRule(fraction=fraction)
    score = image_score(anomaly_map, rule, judged, WINDOWS)

    assert score <= image_score(anomaly_map, rule, windows=WINDOWS)
    assert score <= float(anomaly_map[judged].max())
