import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.inspection.calibration import certify, certify_nearest, extrapolate, p_value, smallest_alpha
from service.inspection.decision import Decision, Thresholds, decide

# Few distinct values, so that ties are common.
score_lists = st.lists(st.integers(0, 20).map(lambda value: value / 4), min_size=1, max_size=60).map(sorted)


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.0, 1.0), (1.0, 1.0), (1.5, 4 / 5), (2.0, 4 / 5), (3.0, 2 / 5), (4.0, 1 / 5)],
)
def test_p_value_counts_good_images_that_score_at_least_as_high(score: float, expected: float) -> None:
    assert p_value([1.0, 2.0, 2.0, 3.0], score) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "alpha", "rank"),
    [(99, 0.01, 99), (199, 0.01, 198), (99, 0.05, 95), (9, 0.1, 9), (10, 0.1, 10), (100, 0.29, 72)],
)
def test_threshold_is_the_stated_order_statistic(n: int, alpha: float, rank: int) -> None:
    threshold = certify([float(value) for value in range(1, n + 1)], alpha)

    assert (threshold.rank, threshold.value) == (rank, float(rank))


def test_too_few_images_say_what_they_can_certify_and_how_many_are_needed() -> None:
    with pytest.raises(ValueError, match=r"42 good images .* 0\.02326 at best, not 0\.01; 99 would be needed"):
        certify([float(value) for value in range(42)], 0.01)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0])
def test_rates_outside_zero_and_one_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        certify([1.0], alpha)


@pytest.mark.parametrize("n", [1, 2, 6, 42, 48, 98, 333])
def test_the_smallest_rate_is_certified_by_the_highest_good_score(n: int) -> None:
    threshold = certify_nearest([float(value) for value in range(n)], 1e-9)

    assert (threshold.rank, threshold.alpha) == (n, smallest_alpha(n))


@given(score_lists, st.integers(0, 24).map(lambda value: value / 4), st.integers(1, 99).map(lambda value: value / 100))
def test_score_p_value_and_decision_agree_at_every_boundary(scores: list[float], score: float, alpha: float) -> None:
    assume(alpha >= smallest_alpha(len(scores)))
    threshold = certify(scores, alpha)

    fails = decide(score, Thresholds(fail=threshold.value, review=threshold.value)) is Decision.FAIL

    assert fails == (p_value(scores, score) <= alpha)


@pytest.mark.parametrize("share", [1, 2, 3, 5])
def test_rates_that_are_whole_shares_of_the_images_lose_no_rank_to_rounding(share: int) -> None:
    for n in range(share, 300):
        assert certify([float(value) for value in range(n)], share / (n + 1)).rank == n + 1 - share, n


def test_the_guarantee_holds_on_average_over_many_calibrations() -> None:
    """The expected false-reject rate is at most alpha, and for continuous scores not far below it."""
    rng = np.random.default_rng(7)
    alpha, n = 0.05, 59
    rates = []
    for _ in range(1000):
        calibration = sorted(rng.gamma(2.0, size=n).tolist())
        rates.append(float((rng.gamma(2.0, size=200) > certify(calibration, alpha).value).mean()))

    assert np.mean(rates) <= alpha + 3 * np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) >= alpha - 1 / (n + 1) - 3 * np.std(rates) / np.sqrt(len(rates))


def test_extrapolation_follows_an_exponential_tail() -> None:
    """On exponential scores, where the true threshold is -log(alpha)."""
    rng = np.random.default_rng(3)
    guesses = [extrapolate(sorted(rng.exponential(size=60).tolist()), 0.001) for _ in range(300)]

    assert np.median(guesses) == pytest.approx(-np.log(0.001), rel=0.15)


def test_extrapolation_is_never_below_what_good_parts_scored() -> None:
    assert extrapolate([0.0] * 30 + [9.0], 0.02) == 9.0
