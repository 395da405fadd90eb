"""The label of an inspection, from the reviews of all reviewers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from service.schemas.inspection import InspectionLabel
from service.schemas.review import ReviewLabel


@dataclass(frozen=True)
class Opinion:
    """The current review of one reviewer.

    Attributes:
        label: The label.
        kind: Kind of defect; None if the reviewer named none.
    """

    label: ReviewLabel
    kind: str | None = None


@dataclass(frozen=True)
class CombinedLabel:
    """The label of an inspection.

    Attributes:
        label: The label.
        kind: Kind of defect; None if none is named, or if the reviewers name different ones.
    """

    label: InspectionLabel
    kind: str | None = None


def combine(opinions: Iterable[Opinion]) -> CombinedLabel | None:
    """Return the label that follows from the current reviews, one per reviewer; None without a review.

    A reviewer who is unsure does not contradict the others.
    """
    given = list(opinions)
    if not given:
        return None
    decided = {opinion.label for opinion in given if opinion.label != "unsure"}
    if not decided:
        return CombinedLabel("unsure")
    if len(decided) > 1:
        return CombinedLabel("disputed")
    kinds = {opinion.kind for opinion in given if opinion.kind is not None}
    return CombinedLabel(decided.pop(), kinds.pop() if len(kinds) == 1 else None)
