"""Rates of wrong decisions, estimated from a stratified sample of reviewed inspections.

The inspections of a stratum with the same decision form a cell. Its size is known, and its reviewed part is a random
sample of it. So the number of good and of defective parts in the cell is estimated by the shares in that sample times
the size, and the rates by ratios of sums over the cells: the Horvitz-Thompson estimator (Horvitz & Thompson 1952,
Journal of the American Statistical Association 47) with the number of reviewed parts as the sample size, that is
post-stratified (Särndal, Swensson & Wretman 1992, Model Assisted Survey Sampling, chapter 7.6). It assumes that within
a cell it does not depend on the part whether the review of a sampled inspection is missing or undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.reviews.intervals import WeightedCount, melded_share_interval, rate_interval
from service.reviews.sampling import JudgedImage, Stratum
from service.schemas.inspection import InspectionLabel, VerdictName

Truth = Literal["good", "defect"]


@dataclass(frozen=True)
class Cell:
    """Inspections of one stratum with the same decision.

    Attributes:
        decision: The decision.
        size: Number of inspections.
        good: Sampled inspections with the label good.
        defective: Sampled inspections with the label defect.
    """

    decision: VerdictName
    size: int
    good: int
    defective: int


@dataclass(frozen=True)
class Estimate:
    """An estimated rate with its 95 % confidence interval.

    Attributes:
        rate: The rate; None if no reviewed part is of this kind.
        low: Lower limit.
        high: Upper limit.
        count: Reviewed parts that are counted.
        of: Reviewed parts that they are a share of.
        method: How the interval was computed.
    """

    rate: float | None
    low: float
    high: float
    count: int
    of: int
    method: Literal["clopper-pearson", "melded"]


@dataclass(frozen=True)
class Rates:
    """Rates of wrong decisions.

    Attributes:
        false_reject: Share of good parts that fail.
        false_alarm: Share of good parts that fail or need review.
        miss: Share of defective parts that pass.
        unreviewed: Number of inspections in cells without a reviewed part.
    """

    false_reject: Estimate
    false_alarm: Estimate
    miss: Estimate
    unreviewed: int


def cells_of(
    strata: Iterable[Stratum],
    labels: Mapping[str, InspectionLabel],
    decide: Callable[[JudgedImage], VerdictName],
) -> list[Cell]:
    """Divide strata into cells.

    Args:
        strata: The strata, with the inspections that were drawn.
        labels: Labels by id of the inspection. Of inspections that were not drawn they have no effect: what people
            label by their own choice is no random sample.
        decide: Returns the decision about an inspection: the stored one, or that of other thresholds.
    """
    cells = []
    for stratum in strata:
        sizes: dict[VerdictName, int] = {}
        counts: dict[tuple[VerdictName, str | None], int] = {}
        for image in stratum.members:
            decision = decide(image)
            sizes[decision] = sizes.get(decision, 0) + 1
        for image in stratum.drawn:
            key = decide(image), labels.get(image.id)
            counts[key] = counts.get(key, 0) + 1
        cells += [
            Cell(decision, size, counts.get((decision, "good"), 0), counts.get((decision, "defect"), 0))
            for decision, size in sizes.items()
        ]
    return cells


def estimate_rates(cells: Sequence[Cell]) -> Rates:
    """Estimate the rates of wrong decisions.

    Args:
        cells: All cells of the period.
    """
    return Rates(
        false_reject=estimate_share(cells, "good", {"fail"}),
        false_alarm=estimate_share(cells, "good", {"fail", "review"}),
        miss=estimate_share(cells, "defect", {"pass"}),
        unreviewed=sum(cell.size for cell in cells if not cell.good + cell.defective),
    )


def estimate_share(cells: Sequence[Cell], truth: Truth, decisions: set[VerdictName]) -> Estimate:
    """Estimate the share of the good or of the defective parts that got one of some decisions.

    The interval is that of Clopper and Pearson if every reviewed part stands for the same number of inspections, and
    otherwise the melded one: see `melded_share_interval`. Both are about the process that the inspections are a sample
    of, so they have a width even if every inspection was reviewed.

    Args:
        cells: All cells of the period.
        truth: The kind of parts.
        decisions: The decisions that are counted.
    """
    counted = [_weighted(cell, truth) for cell in cells if cell.decision in decisions]
    others = [_weighted(cell, truth) for cell in cells if cell.decision not in decisions]
    count, of = sum(item.count for item in counted), sum(item.count for item in (*counted, *others))
    part, rest = sum(item.estimate for item in counted), sum(item.estimate for item in others)
    rate = part / (part + rest) if of else None
    if _is_self_weighted((*counted, *others)):
        return Estimate(rate, *rate_interval(count, of), count, of, "clopper-pearson")
    return Estimate(rate, *melded_share_interval(counted, others), count, of, "melded")


def _weighted(cell: Cell, truth: Truth) -> WeightedCount:
    count = cell.good if truth == "good" else cell.defective
    return WeightedCount(cell.size, count, cell.good + cell.defective)


def _is_self_weighted(items: Sequence[WeightedCount]) -> bool:
    if not items:
        return True
    first = items[0]
    return all(item.total > 0 and item.size * first.total == first.size * item.total for item in items)
