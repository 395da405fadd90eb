"""Ranks among fixed reference values: fair bets for any distribution, and what they find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.monitoring.drift.detector import Detector, evidence_of
from service.monitoring.drift.ranks import BET_WEIGHTS, MAX_BINS, SIDES, Ranks, interval_bets, tie_key


def wealth_after(values: list[float], reference: list[float]) -> Detector:
    ranks, detector = Ranks.of(reference, "reference"), Detector(BET_WEIGHTS)
    for number, value in enumerate(values, 1):
        detector.update(ranks.add(value, tie_key("value", number)), number)
    return detector


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_bets_have_the_expected_value_one(masses: list[int]) -> None:
    edges = np.concatenate(([0.0], np.cumsum(masses))) / sum(masses)
    bets = interval_bets(edges[:-1], edges[1:])
    assert bets.shape == (len(masses), len(SIDES))
    np.testing.assert_allclose(np.diff(edges) @ bets, 1.0)


@pytest.mark.parametrize("n", [1, 5, MAX_BINS - 1, MAX_BINS, 1000])
def test_bins_have_the_probabilities_of_the_urn(n: int) -> None:
    reference = [float(value) for value in range(n)]
    ranks = Ranks.of(reference, "seed")
    assert ranks.reference_count == n
    # An inspection above all reference values: probability 1 / (n + 1), and 2 / (n + 2) for the next one.
    for earlier in range(3):
        probability = (1 + earlier) / (n + 1 + earlier)
        np.testing.assert_allclose(ranks.add(n + 1.0, 0.5), interval_bets(0.0, probability))
    ranks = Ranks.of(reference, "seed")
    for earlier in range(3):
        probability = (1 + earlier) / (n + 1 + earlier)
        np.testing.assert_allclose(ranks.add(-1.0, 0.5), interval_bets(1 - probability, 1.0))


def test_equal_values_are_spread_over_all_ranks_by_their_keys() -> None:
    detector = wealth_after([0.5] * 5000, [0.5] * 50)
    assert evidence_of(detector.wealth) < 4  # the evidence of 5000 stationary inspections


def test_keys_are_uniform_and_the_same_in_a_replay() -> None:
    keys = [tie_key("id", number) for number in range(2000)]
    assert keys == [tie_key("id", number) for number in range(2000)]
    counts, _ = np.histogram(keys, bins=10, range=(0, 1))
    assert counts.min() > 130
    assert tie_key("a", "bc") != tie_key("ab", "c")


@pytest.mark.parametrize(("shift", "spread", "direction"), [(3, 1, "higher"), (-3, 1, "lower"), (0, 6, "wider")])
@pytest.mark.parametrize("n", [20, 200])
def test_a_change_is_found_with_its_direction_and_start(n: int, shift: float, spread: float, direction: str) -> None:
    rng = np.random.default_rng(7)
    usual, changed = rng.normal(size=500), shift + spread * rng.normal(size=60)
    detector = wealth_after([*usual.tolist(), *changed.tolist()], rng.normal(size=n).tolist())
    assert evidence_of(detector.wealth) > 7
    assert SIDES[detector.strongest] == direction
    assert detector.onset == pytest.approx(501, abs=10)


def test_the_state_continues_after_it_was_stored() -> None:
    rng = np.random.default_rng(3)
    reference, values = rng.normal(size=100).tolist(), rng.normal(1, 1, 50).tolist()
    whole = wealth_after(values, reference)
    ranks, detector = Ranks.of(reference, "reference"), Detector(BET_WEIGHTS)
    for number, value in enumerate(values, 1):
        ranks = Ranks.from_stored(ranks.reference_to_stored(), ranks.to_stored())
        detector = Detector(BET_WEIGHTS).restore(detector.to_stored())
        detector.update(ranks.add(value, tie_key("value", number)), number)
    assert (detector.wealth, detector.onset) == (whole.wealth, whole.onset)
