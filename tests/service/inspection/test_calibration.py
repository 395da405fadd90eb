import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import beta, gamma

from service.bundle.card import CalibrationGroup, GroupShift
from service.inspection.calibration import (
    bound_above,
    bound_rate,
    certify,
    certify_nearest,
    confident_rate,
    describe_card,
    extrapolate,
    images_needed,
    new_group_rate,
    p_value,
    percent,
    rate_above,
    smallest_alpha,
    state_new_group_rate,
)
from service.inspection.decision import Decision, Thresholds, decide
from tests.bundles import tiny_card

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


def test_error_states_the_certifiable_rate_and_the_images_needed() -> None:
    with pytest.raises(ValueError, match=r"42 good images .* 0\.02326 at best; 0\.01 needs 99 images"):
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


@given(score_lists, st.integers(-4, 90).map(lambda value: value / 4))
def test_threshold_set_by_hand_has_the_bounds_of_the_highest_score_below_it(
    scores: list[float], threshold: float
) -> None:
    below = [score for score in scores if score <= threshold]
    rate, bound = rate_above(scores, threshold), bound_above(scores, threshold)
    if not below:
        assert (rate, bound) == (None, None)
        return
    assert rate is not None
    assert certify(scores, rate).value == max(below)
    assert bound == bound_rate(len(scores), rate)
    assert bound.certified
    assert bound.confident == confident_rate(len(scores), len(below), bound.confidence)
    # No rate that is smaller by one rank would reject what lies above this threshold.
    assert sum(score > threshold for score in scores) / (len(scores) + 1) < rate


@pytest.mark.parametrize("share", [1, 2, 3, 5])
def test_rounding_loses_no_rank_at_multiples_of_one_over_n(share: int) -> None:
    for n in range(share, 300):
        assert certify([float(value) for value in range(n)], share / (n + 1)).rank == n + 1 - share, n


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("n", "rank"), [(1, 1), (2, 1), (19, 19), (99, 99), (99, 95), (1000, 1), (5000, 4951)])
def test_confident_rate_is_the_quantile_of_the_order_statistic(n: int, rank: int, confidence: float) -> None:
    expected = float(beta.ppf(confidence, n + 1 - rank, rank))

    assert confident_rate(n, rank, confidence) == pytest.approx(expected, rel=1e-9)


def test_no_reject_among_n_gives_the_rule_of_three() -> None:
    assert confident_rate(300, 300, 0.95) == pytest.approx(3 / 300, rel=0.01)


@pytest.mark.parametrize(("n", "rank", "confidence"), [(9, 0, 0.9), (9, 10, 0.9), (9, 9, 0.0), (9, 9, 1.0)])
def test_confident_rate_refuses_invalid_arguments(n: int, rank: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        confident_rate(n, rank, confidence)


@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.05, 0.01, 0.001, 0.3, 0.07])
def test_images_needed_is_the_smallest_sufficient_number(alpha: float) -> None:
    needed = images_needed(alpha)

    assert certify([0.0] * needed, alpha).alpha == alpha
    if needed > 1:
        with pytest.raises(ValueError, match=f"needs {needed} images"):
            certify([0.0] * (needed - 1), alpha)


# Every tolerance below is four standard errors: a correct implementation fails for one seed in 16,000, and the seed is
# fixed.
CALIBRATIONS = 1000


@pytest.mark.parametrize("step", [0.0, 0.25], ids=["continuous", "ties"])
@pytest.mark.parametrize(("n", "alpha"), [(99, 0.01), (59, 0.05), (150, 0.01), (500, 0.02), (9, 0.1)])
def test_both_guarantees_hold_over_a_thousand_calibrations(n: int, alpha: float, step: float) -> None:
    """The true false-reject rate of every threshold is known, because the distribution of the scores is known."""
    rng = np.random.default_rng(20261124)
    drawn = rng.gamma(2.0, size=(CALIBRATIONS, n))
    scores = np.sort(np.ceil(drawn / step) * step if step else drawn, axis=1)
    thresholds = [certify(row, alpha) for row in scores.tolist()]
    # Rounding up to the grid keeps every comparison with a grid value.
    rates = gamma.sf([threshold.value for threshold in thresholds], 2.0)
    rank = thresholds[0].rank
    law = beta(n + 1 - rank, rank)
    expected = thresholds[0].expected_rate

    assert expected <= alpha
    standard_error = law.std() / np.sqrt(CALIBRATIONS)
    assert rates.mean() <= expected + 4 * standard_error
    for confidence in (0.5, 0.9, 0.95, 0.99):
        covered = float((rates <= confident_rate(n, rank, confidence)).mean())
        tolerance = 4 * np.sqrt(confidence * (1 - confidence) / CALIBRATIONS)
        assert covered >= confidence - tolerance
        if not step:
            assert covered <= confidence + tolerance, "the bound is not wider than necessary"
    if not step:
        assert rates.mean() >= expected - 4 * standard_error, "the threshold is not higher than necessary"


def test_extrapolation_follows_an_exponential_tail() -> None:
    """For exponential scores the true threshold is -log(alpha)."""
    rng = np.random.default_rng(3)
    guesses = [extrapolate(sorted(rng.exponential(size=60).tolist()), 0.001) for _ in range(300)]

    assert np.median(guesses) == pytest.approx(-np.log(0.001), rel=0.15)


def test_extrapolation_is_never_below_the_highest_score() -> None:
    assert extrapolate([0.0] * 30 + [9.0], 0.02) == 9.0


@pytest.mark.parametrize(
    ("n", "rate", "shown"),
    [
        (10, 1 / 11, "≤ 9.1 % on average, ≤ 26 % with 95 % confidence (n = 10)"),
        (99, 0.01, "≤ 1 % on average, ≤ 3 % with 95 % confidence (n = 99)"),
        (299, 1 / 300, "≤ 0.34 % on average, ≤ 1 % with 95 % confidence (n = 299)"),
        (1, 0.5, "≤ 50 % on average, ≤ 95 % with 95 % confidence (n = 1)"),
        (
            10,
            0.001,
            "about 0.1 %, extrapolated; certified: ≤ 9.1 % on average, ≤ 26 % with 95 % confidence (n = 10)",
        ),
    ],
)
def test_rate_is_shown_with_the_bound_for_this_calibration(n: int, rate: float, shown: str) -> None:
    assert str(bound_rate(n, rate)) == shown


@given(st.integers(1, 400), st.floats(1e-4, 0.9))
def test_bounds_of_a_rate_are_those_of_its_threshold(n: int, rate: float) -> None:
    bound = bound_rate(n, rate)

    threshold = certify_nearest([float(value) for value in range(n)], rate)
    assert bound.certified == (rate >= smallest_alpha(n))
    assert bound.average == threshold.alpha
    assert bound.confident == pytest.approx(beta.ppf(0.95, n + 1 - threshold.rank, threshold.rank), abs=1e-9)


@given(st.floats(0, 1))
def test_percentages_are_never_rounded_down(share: float) -> None:
    shown = float(percent(share).removesuffix(" %"))

    assert shown >= 100 * share - 1e-6
    assert shown <= 100 * share * 1.11 + 1e-6


def test_notes_say_what_few_images_of_one_session_do_not_cover() -> None:
    few, session = describe_card(tiny_card([float(value) for value in range(10)]))

    assert "n = 10" in few
    assert "9.1 %" in few
    assert "26 %" in few
    assert "at least 30 images" in few
    assert "One capture group" in session
    assert "Another lot, day, shift" in session


def test_notes_state_the_rate_for_a_new_group_and_the_estimated_shift() -> None:
    groups = [CalibrationGroup(name=name, count=33) for name in ("lot-1", "lot-2", "lot-3")]
    shift = GroupShift(groups=5, images=60, known_rate=0.05, new_rate=0.21, worst_rate=0.57, worst_group="lot-4")
    card = tiny_card().model_copy(update={"groups": groups, "grouped_by": "prefix", "group_shift": shift})

    few, estimated = describe_card(card)

    assert "3 groups certify 25 % at best" in few
    assert "rejects 5 % of good parts of known groups, it rejects 21 % of a new group on average and 57 %" in estimated
    assert "lot-4" in estimated
    assert "not a bound" in estimated


@pytest.mark.parametrize(
    ("sizes", "rank", "rate"),
    [
        ((14,), 14, 1 / 2),
        ((10, 12), 22, 1 / 3),
        ((33, 33, 33), 99, 1 / 4),
        ((10,) * 10, 99, (1 + 1 / 10) / 11),
        ((2, 10, 20), 28, (1 + 1 + 2 / 10) / 4),
        ((2, 2), 1, (1 + 1 + 1 / 2) / 3),
    ],
    ids=["one", "two", "highest-of-three", "one-score-above", "smallest-group-first", "nearly-all"],
)
def test_bound_for_a_new_group_follows_from_the_number_of_groups(
    sizes: tuple[int, ...], rank: int, rate: float
) -> None:
    assert new_group_rate(sizes, rank) == pytest.approx(rate)


@pytest.mark.parametrize(("groups", "size", "alpha"), [(4, 10, 0.03), (20, 6, 0.05), (3, 33, 0.1)])
def test_bound_for_a_new_group_holds_where_groups_differ_far_more_than_images(
    groups: int, size: int, alpha: float
) -> None:
    rng = np.random.default_rng(20261128)
    rejected, threshold = [], certify_nearest([0.0] * (groups * size), alpha)
    for _ in range(4000):
        scores = rng.normal(size=(groups + 1, 1)) + 0.01 * rng.normal(size=(groups + 1, size))
        level = np.sort(scores[:-1].ravel())[threshold.rank - 1]
        rejected.append(scores[-1, 0] > level)

    rate = float(np.mean(rejected))
    assert rate <= new_group_rate([size] * groups, threshold.rank) + 0.02
    assert rate > 1.5 * threshold.confident_rate(0.95) or groups > 4, "the bound of single images does not hold"


def test_bound_for_a_new_group_is_stated_if_whole_groups_were_held_out() -> None:
    groups = [CalibrationGroup(name=name, count=33) for name in ("lot-1", "lot-2", "lot-3")]
    card = tiny_card()

    assert state_new_group_rate(card, 0.01) is None
    assert state_new_group_rate(card.model_copy(update={"groups": groups, "grouped_by": "folder"}), 0.01) == (
        "≤ 25 % for a part of a new group, on average over groups (3 groups held out)"
    )


def test_large_calibration_of_many_groups_needs_no_note() -> None:
    groups = [CalibrationGroup(name=str(number), count=3) for number in range(33)]

    assert describe_card(tiny_card().model_copy(update={"groups": groups, "grouped_by": "folder"})) == []
