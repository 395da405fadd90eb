"""Paired comparison of two bundles: counts, exact tests, summary."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.deployment.comparison import MAX_EXAMPLES, compare, paired_test
from service.store.records import PairedVerdict


def judged(active: str, shadow: str, number: int = 0, *, p_values: tuple[float, float] = (0.5, 0.5)) -> PairedVerdict:
    return PairedVerdict(f"id-{number}", active, shadow, 1.0, 2.0, *p_values)


@pytest.mark.parametrize(
    ("active_only", "shadow_only", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (8, 1, 2 * 10 / 512),
        (3, 3, 1.0),
        (1000, 0, 2 / 2**1000),
    ],
)
def test_p_value_of_known_splits(active_only: int, shadow_only: int, p_value: float) -> None:
    assert paired_test(active_only, shadow_only).p_value == pytest.approx(p_value, rel=1e-12)


@given(st.integers(0, 300), st.integers(0, 300))
def test_p_value_is_the_binomial_tail(active_only: int, shadow_only: int) -> None:
    n = active_only + shadow_only
    tail = sum(comb(n, count) for count in range(min(active_only, shadow_only) + 1))
    assert paired_test(active_only, shadow_only).p_value == min(1.0, 2 * tail / 2**n)


def test_every_pair_of_decisions_is_counted() -> None:
    pairs = [judged("pass", "pass")] * 5 + [judged("pass", "fail")] * 2 + [judged("review", "fail")]
    comparison = compare("aaa", "bbb", pairs)
    assert comparison.pairs == 8
    assert comparison.agreement["pass"] == {"pass": 5, "review": 0, "fail": 2}
    assert comparison.agreement["review"] == {"pass": 0, "review": 0, "fail": 1}
    assert (comparison.rejects.active_only, comparison.rejects.shadow_only) == (0, 3)
    assert comparison.rejects.p_value == 0.25


def test_equal_p_values_are_omitted() -> None:
    pairs = [judged("pass", "pass", p_values=values) for values in ((0.1, 0.2), (0.3, 0.1), (0.3, 0.1), (0.5, 0.5))]
    p_values = compare("aaa", "bbb", pairs).p_values
    assert (p_values.active_only, p_values.shadow_only) == (1, 2)


def test_examples_are_the_newest_disagreements() -> None:
    pairs = [judged("pass", "fail" if number % 2 else "pass", number) for number in range(100)]
    examples = compare("aaa", "bbb", pairs).examples
    assert [example.inspection_id for example in examples] == [f"id-{2 * n + 1}" for n in range(MAX_EXAMPLES)]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], "nothing to compare yet"),
        ([judged("pass", "pass")], "Both reject the same parts"),
        ([judged("fail", "pass"), judged("pass", "fail")], "no evidence that one of them rejects more often"),
        ([judged("pass", "fail")] * 3, "the difference is not significant"),
        ([judged("fail", "pass")] * 9, "aaa rejects significantly more often"),
        ([judged("pass", "pass")] * 9, "Of 9 images that both judged, 9 got the same decision"),
    ],
)
def test_summary_describes_the_result(pairs: list[PairedVerdict], expected: str) -> None:
    assert expected in compare("aaa", "bbb", pairs).summary
