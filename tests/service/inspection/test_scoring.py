import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.bundle import ScoreRule
from service.inspection.scoring import image_score

TEN = np.arange(10, dtype=np.float32).reshape(2, 5)


@pytest.mark.parametrize(
    ("fraction", "gain", "expected"),
    [
        (0.01, None, 9.0),  # less than one cell: one cell
        (0.1, None, 9.0),
        (0.2, None, 8.5),
        (0.25, None, 8.0),  # two and a half cells: three
        (1.0, None, 4.5),
        (0.2, 2.0, 17.0),
    ],
)
def test_score_is_the_mean_of_the_highest_cells_times_the_gain(
    fraction: float, gain: float | None, expected: float
) -> None:
    assert image_score(TEN, gain, ScoreRule(fraction=fraction)) == pytest.approx(expected)


@given(
    hnp.arrays(np.float32, (4, 6), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(0.01, 1.0),
)
def test_score_never_exceeds_the_highest_cell(anomaly_map: npt.NDArray[np.float32], fraction: float) -> None:
    assert image_score(anomaly_map, None, ScoreRule(fraction=fraction)) <= float(anomaly_map.max())
