import time
from pathlib import PurePath

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from service.inspection.capture_groups import FLAG_LEVEL, MIN_DAY_IMAGES, group_images, rank_sum_p_value, summarise_days


@pytest.mark.parametrize(
    ("paths", "grouped_by", "names"),
    [
        (["2026-03-01/a.png", "2026-03-02/b.png"], "date-in-name", ("2026-03-01", "2026-03-02")),
        (["lot1/20260301_1.png", "lot1/20260302_1.png"], "date-in-name", ("2026-03-01", "2026-03-02")),
        (["early/a.png", "late/b.png"], "folder", ("early", "late")),
        (["2026-03-01/a.png", "late/b.png"], "folder", ("2026-03-01", "late")),
        (["2026-03-01/a.png", "2026-03-01/b.png"], "none", ("all", "all")),
        (["a.png", "b.png"], "none", ("all", "all")),
        (["lot1_1.png", "lot1_2.png", "lot2_1.png", "lot2_2.png"], "prefix", ("lot1", "lot1", "lot2", "lot2")),
        (["A001.png", "A002.png", "B001.png", "B002.png"], "prefix", ("A", "A", "B", "B")),
        (["7_left.png", "7_right.png", "8_left.png", "8_right.png"], "prefix", ("7", "7", "8", "8")),
        (["a_p1_1.png", "a_p1_2.png", "a_p2_1.png", "a_p2_2.png"], "prefix", ("a_p1", "a_p1", "a_p2", "a_p2")),
        (["IMG_1.png", "IMG_2.png", "IMG_3.png", "IMG_4.png"], "none", ("all",) * 4),
        (["001.png", "002.png", "003.png", "004.png"], "none", ("all",) * 4),
        (["3f2a-9c.png", "77b0-1e.png", "a09d-4f.png", "e1c2-08.png"], "none", ("all",) * 4),
    ],
)
def test_groups_follow_from_names(paths: list[str], grouped_by: str, names: tuple[str, ...]) -> None:
    grouping = group_images([PurePath(path) for path in paths])

    assert (grouping.grouped_by, grouping.names) == (grouped_by, names)


@pytest.mark.parametrize(
    ("by", "grouped_by", "names"),
    [
        ("auto", "date-in-name", ("2026-03-01", "2026-03-01", "2026-03-02", "2026-03-02")),
        ("date", "date-in-name", ("2026-03-01", "2026-03-01", "2026-03-02", "2026-03-02")),
        ("folder", "folder", ("x", "x", "y", "y")),
        ("prefix", "prefix", ("a_20260301", "a_20260301", "b_20260302", "b_20260302")),
        ("none", "none", ("all",) * 4),
    ],
)
def test_the_property_that_separates_groups_can_be_chosen(by: str, grouped_by: str, names: tuple[str, ...]) -> None:
    paths = ["x/a_20260301_1.png", "x/a_20260301_2.png", "y/b_20260302_1.png", "y/b_20260302_2.png"]

    grouping = group_images([PurePath(path) for path in paths], by)  # type: ignore[arg-type]  # a table of choices

    assert (grouping.grouped_by, grouping.names) == (grouped_by, names)


def test_hostile_names_are_grouped_in_linear_time() -> None:
    names = [PurePath("-" * 60_000 + f"x{number}" + "_" * 60_000 + ".png") for number in range(50)]

    started = time.perf_counter()
    group_images(names)

    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("step", [0.0, 0.5], ids=["continuous", "ties"])
@pytest.mark.parametrize(("m", "n", "shift"), [(8, 8, 0.0), (20, 60, 0.4), (50, 30, 1.5), (8, 400, -1.0)])
def test_rank_sum_agrees_with_scipy(m: int, n: int, shift: float, step: float) -> None:
    rng = np.random.default_rng(m + n)
    first, second = rng.normal(shift, 1, m), rng.normal(0, 1, n)
    if step:
        first, second = np.round(first / step) * step, np.round(second / step) * step

    expected = mannwhitneyu(first, second, method="asymptotic").pvalue

    assert rank_sum_p_value(first, second) == pytest.approx(expected, rel=1e-9)


def test_equal_scores_do_not_differ() -> None:
    assert rank_sum_p_value(np.ones(10), np.ones(20)) == 1.0


def test_day_summary() -> None:
    summary = summarise_days([1.0, 3.0, 2.0, 5.0, 4.0], ["a", "a", "a", "b", "b"], 2.5)

    assert [(day.name, day.images, day.above, day.median_score) for day in summary] == [
        ("a", 3, 1, 2.0),
        ("b", 2, 2, 4.5),
    ]
    assert [day.differs for day in summary] == [None, None], f"fewer than {MIN_DAY_IMAGES} images are not tested"


def test_only_the_day_that_differs_is_flagged() -> None:
    rng = np.random.default_rng(5)
    scores = [*rng.normal(0, 1, 90), *rng.normal(2, 1, 30)]
    days = ["mon"] * 30 + ["tue"] * 30 + ["wed"] * 30 + ["thu"] * 30

    flags = {day.name: day.differs for day in summarise_days(scores, days, 2.0)}

    assert flags["thu"]
    assert flags["tue"] is False


def test_similar_days_are_rarely_flagged() -> None:
    """At most `FLAG_LEVEL` of the sets have a flag, plus four standard errors for 1,000 sets."""
    rng = np.random.default_rng(1)
    days = [name for name in "abcde" for _ in range(20)]

    flagged = [
        any(day.differs for day in summarise_days(rng.gamma(2, size=100).tolist(), days, 1)) for _ in range(1000)
    ]

    assert np.mean(flagged) <= FLAG_LEVEL + 4 * np.sqrt(FLAG_LEVEL * (1 - FLAG_LEVEL) / 1000)


def test_single_day_is_not_tested() -> None:
    (day,) = summarise_days([1.0] * 20, ["all"] * 20, 2.0)

    assert day.differs is None
