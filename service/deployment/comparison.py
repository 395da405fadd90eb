"""Compare the verdicts of two bundles on the same images.

Both tests are exact binomial tests on the discordant pairs. McNemar's test compares rejects: if both bundles reject
equally often, an image that exactly one of them rejects is equally likely to be rejected by either. The sign test does
the same for p-values: which of the bundles gives the part the smaller one. The tests do not show which bundle is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.inspection.decision import VERDICTS, Decision
from service.store.records import PairedVerdict

SIGNIFICANCE = 0.05
MAX_EXAMPLES = 20


@dataclass(frozen=True)
class PairedTest:
    """The result of a two-sided exact test on paired verdicts.

    Attributes:
        active_only: Pairs in which only the active bundle rejects, or in which its p-value is smaller.
        shadow_only: The same for the shadow bundle.
        p_value: Probability of a split at least as uneven if both were equally likely.
    """

    active_only: int
    shadow_only: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """The comparison of two bundles on the same images.

    Attributes:
        active: Version of the bundle that decided.
        shadow: Version of the shadow bundle.
        pairs: Number of images that both judged.
        agreement: Number of images by the decision of the active and then of the shadow bundle.
        rejects: McNemar's exact test on rejects.
        p_values: The sign test on p-values; pairs with equal p-values are omitted.
        examples: Images with different decisions, newest first.
        summary: The result in words.
    """

    active: str
    shadow: str
    pairs: int
    agreement: Mapping[str, Mapping[str, int]]
    rejects: PairedTest
    p_values: PairedTest
    examples: Sequence[PairedVerdict]
    summary: str


def compare(active: str, shadow: str, judged: Sequence[PairedVerdict]) -> Comparison:
    """Compare two bundles.

    Args:
        active: Version of the bundle that decided.
        shadow: Version of the shadow bundle.
        judged: The verdicts of both, newest first.
    """
    cells = Counter((pair.active_decision, pair.shadow_decision) for pair in judged)
    decisions = [decision.value for decision in VERDICTS]
    agreement = {first: {second: cells[first, second] for second in decisions} for first in decisions}
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
    """Compute the exact two-sided binomial test that two counts are equally likely.

    Args:
        active_only: Number of pairs of the one kind.
        shadow_only: Number of pairs of the other kind.
    """
    n, fewer = active_only + shadow_only, min(active_only, shadow_only)
    # Integer arithmetic, so that small tails do not underflow; divided once at the end.
    tail, term = 0, 1
    for count in range(fewer + 1):
        tail += term
        term = term * (n - count) // (count + 1)
    return PairedTest(active_only, shadow_only, min(1.0, 2 * tail / 2**n))


def _summary(active: str, shadow: str, pairs: int, different: int, rejects: PairedTest) -> str:
    if pairs == 0:
        return f"No image was judged by both {active} and {shadow}, so there is nothing to compare yet."
    counted = f"Of {pairs} images that both judged, {pairs - different} got the same decision."
    split = (
        f"Only {active} rejects {rejects.active_only}, only {shadow} rejects {rejects.shadow_only}."
        if rejects.active_only + rejects.shadow_only
        else "Both reject the same parts."
    )
    if rejects.active_only == rejects.shadow_only:
        verdict = "There is no evidence that one of them rejects more often."
    else:
        chance = f"If both rejected equally often, a split at least this uneven has probability {rejects.p_value:.2g}"
        if rejects.p_value < SIGNIFICANCE:
            more = active if rejects.active_only > rejects.shadow_only else shadow
            verdict = f"{chance}, so {more} rejects significantly more often."
        else:
            verdict = f"{chance}, so the difference is not significant."
    return f"{counted} {split} {verdict} The test does not show which bundle is right: inspect the parts that differ."
