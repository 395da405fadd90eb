"""Two bundles that judged the same images: do they differ, and is the difference more than chance?

Both statistics are exact binomial tests on the images where the two disagree, which is all that paired judgements
say about a difference. McNemar's looks at rejects: among the images that exactly one of the two rejects, either is
equally likely to be the one, if they reject equally often. The sign test looks at p-values in the same way: which of
the two finds the part more unusual. Neither says who is right; only a person who looks at the parts can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.inspection.decision import VERDICTS, Decision
from service.store.shadows import JudgedTwice

SIGNIFICANCE = 0.05
MAX_EXAMPLES = 20


@dataclass(frozen=True)
class PairedTest:
    """A two-sided exact test of paired differences.

    Attributes:
        active_only: Pairs where only the active bundle rejects, or where it finds the part more unusual.
        shadow_only: Pairs where that is so of the shadow.
        p_value: Chance of a difference at least as uneven, if both were equally likely.
    """

    active_only: int
    shadow_only: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """What two bundles said about the same images.

    Attributes:
        active: Version that decided.
        shadow: Version that watched.
        pairs: Images that both judged.
        agreement: How often each pair of decisions came, by the active bundle's and then the shadow's.
        rejects: McNemar's exact test on rejecting or not.
        p_values: The sign test on the p-values; equal ones do not count.
        examples: Images that got different decisions, newest first.
        summary: All that in plain language.
    """

    active: str
    shadow: str
    pairs: int
    agreement: Mapping[str, Mapping[str, int]]
    rejects: PairedTest
    p_values: PairedTest
    examples: Sequence[JudgedTwice]
    summary: str


def compare(active: str, shadow: str, judged: Sequence[JudgedTwice]) -> Comparison:
    """Compare two bundles.

    Args:
        active: Version that decided.
        shadow: Version that watched.
        judged: What both said, newest first.
    """
    cells = Counter((pair.active_decision, pair.shadow_decision) for pair in judged)
    decisions = [decision.value for decision in VERDICTS]
    agreement = {mine: {other: cells[mine, other] for other in decisions} for mine in decisions}
    rejects = paired_test(
        sum(pair.active_decision == Decision.FAIL != pair.shadow_decision for pair in judged),
        sum(pair.shadow_decision == Decision.FAIL != pair.active_decision for pair in judged),
    )
    p_values = paired_test(
        sum(pair.active_p_value < pair.shadow_p_value for pair in judged),
        sum(pair.shadow_p_value < pair.active_p_value for pair in judged),
    )
    different = [pair for pair in judged if pair.active_decision != pair.shadow_decision]
    summary = _summary(active, shadow, len(judged), len(different), rejects)
    return Comparison(active, shadow, len(judged), agreement, rejects, p_values, different[:MAX_EXAMPLES], summary)


def paired_test(active_only: int, shadow_only: int) -> PairedTest:
    """The exact two-sided test of whether two counts are unevenly split.

    Args:
        active_only: Pairs that speak for one side.
        shadow_only: Pairs that speak for the other.
    """
    n, fewer = active_only + shadow_only, min(active_only, shadow_only)
    # In whole numbers, so that no tail is too small to be computed; one division at the end.
    tail, term = 0, 1
    for count in range(fewer + 1):
        tail += term
        term = term * (n - count) // (count + 1)
    return PairedTest(active_only, shadow_only, min(1.0, 2 * tail / 2**n))


def _summary(active: str, shadow: str, pairs: int, different: int, rejects: PairedTest) -> str:
    if pairs == 0:
        return f"No image was decided by {active} and watched by {shadow}, so there is nothing to compare yet."
    counted = f"Of {pairs} images that both judged, {pairs - different} got the same decision."
    split = (
        f"{active} alone rejects {rejects.active_only}, {shadow} alone rejects {rejects.shadow_only}."
        if rejects.active_only + rejects.shadow_only
        else "They reject the same parts."
    )
    if rejects.active_only == rejects.shadow_only:
        verdict = "Nothing says that one of them rejects more often than the other."
    else:
        chance = f"a difference this uneven comes by chance with probability {rejects.p_value:.2g}"
        more = active if rejects.active_only > rejects.shadow_only else shadow
        if rejects.p_value < SIGNIFICANCE:
            verdict = f"If both rejected equally often, {chance}: take it that {more} rejects more."
        else:
            verdict = f"If both rejected equally often, {chance}: that {more} rejects more is not shown."
    return f"{counted} {split} {verdict} Which of them is right, only the parts can tell."
