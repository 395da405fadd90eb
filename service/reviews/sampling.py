"""The sample of inspections to review: stratified by bundle, decision and score.

Every inspection with the decision `review` belongs to the sample. Passed and failed parts are drawn from score strata,
the same number from each, so that scores near the thresholds, where wrong decisions are most likely, are sampled more
often than the others. Within a stratum, the inspections with the smallest hashes of their ids are drawn. The hash is
independent of what the image shows, so this is a simple random sample, and it is the same one in every call: permanent
random numbers (Ohlsson 1995, in: Business Survey Methods, chapter 9).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.schemas.inspection import VerdictName

# Borders of the score strata, as quantiles of the scores with the same decision. The strata near the thresholds are the
# smallest, so the same number from each stratum means a higher probability there.
PASS_QUANTILES = (0.5, 0.8, 0.95)
FAIL_QUANTILES = (0.05, 0.2, 0.5)
DEFAULT_SAMPLE = 40


@dataclass(frozen=True)
class SamplePlan:
    """How many inspections are drawn, per bundle.

    Attributes:
        passed: Number of passed parts.
        failed: Number of failed parts.
    """

    passed: int = DEFAULT_SAMPLE
    failed: int = DEFAULT_SAMPLE


@dataclass(frozen=True, slots=True)
class JudgedImage:
    """What the sample depends on.

    Attributes:
        id: Id of the inspection.
        decision: The decision.
        score: Raw image score.
        bundle: The bundle that computed the score.
    """

    id: str
    decision: VerdictName
    score: float
    bundle: str


@dataclass(frozen=True)
class Stratum:
    """A stratum and the inspections that are drawn from it.

    Attributes:
        bundle: The bundle.
        decision: The decision.
        members: All of its inspections.
        drawn: The sample, in the order of the hashes. Every first part of it is a random sample, too.
    """

    bundle: str
    decision: VerdictName
    members: tuple[JudgedImage, ...]
    drawn: tuple[JudgedImage, ...]

    @property
    def probability(self) -> float:
        """The probability with which the sample contains a member."""
        return len(self.drawn) / len(self.members)


def hash_of(inspection_id: str) -> float:
    """Return a number in [0, 1) that is determined by the id and independent of everything else."""
    return int.from_bytes(hashlib.sha256(inspection_id.encode()).digest()[:8], "big") / 2**64


def draw(images: Sequence[JudgedImage], plan: SamplePlan) -> list[Stratum]:
    """Stratify inspections and draw the sample.

    Args:
        images: All judged inspections of a period.
        plan: How many to draw.

    Returns:
        The strata, by bundle, decision and score. None is empty.
    """
    groups: dict[tuple[str, VerdictName], list[JudgedImage]] = defaultdict(list)
    for image in images:
        groups[image.bundle, image.decision].append(image)
    strata = []
    for (bundle, decision), members in sorted(groups.items()):
        parts = _split(members, _quantiles(decision))
        count = {"pass": plan.passed, "fail": plan.failed}.get(decision, len(members))
        wanted = _number_per_stratum([len(part) for part in parts], count)
        for part in parts:
            # The id decides between equal hashes.
            order = sorted(part, key=lambda image: (hash_of(image.id), image.id))
            strata.append(Stratum(bundle, decision, tuple(part), tuple(order[:wanted])))
    return strata


def _quantiles(decision: VerdictName) -> tuple[float, ...]:
    return {"pass": PASS_QUANTILES, "fail": FAIL_QUANTILES}.get(decision, ())


def _number_per_stratum(sizes: Sequence[int], count: int) -> int:
    """Return the number of inspections to draw from each stratum; smaller strata are drawn completely.

    It is rounded up, so that a small plan draws from every stratum.

    Args:
        sizes: Sizes of the strata.
        count: Number of inspections to draw from all of them together.
    """
    remaining, left = count, len(sizes)
    for size in sorted(sizes):
        number = -(-remaining // left)
        if number <= size:
            return number
        remaining, left = remaining - size, left - 1
    return max(sizes)


def _split(members: Sequence[JudgedImage], quantiles: tuple[float, ...]) -> list[list[JudgedImage]]:
    """Return the members in strata of ascending scores. Equal scores are in the same stratum."""
    scores = np.array([image.score for image in members])
    borders = np.quantile(scores, quantiles, method="inverted_cdf") if quantiles else np.empty(0)
    places = np.searchsorted(borders, scores, side="left")
    parts: dict[int, list[JudgedImage]] = defaultdict(list)
    for image, place in zip(members, places.tolist(), strict=True):
        parts[place].append(image)
    return [parts[place] for place in sorted(parts)]
