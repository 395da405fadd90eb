"""What a threshold proposal is derived from, and what it is asked for.

A proposal is not in force. It is computed once from the scores of good images, stored with them, and applied by a
recipe that names its id; what the recipe then guarantees is derived again from the stored scores.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.bundle.card import CalibrationCard
from service.schemas.proposal import Grouping, SourceKind


@dataclass(frozen=True)
class GoodImages:
    """Scores of good images on one bundle's scale.

    Attributes:
        kind: Where they come from.
        scores: Raw image scores, in any order.
        days: The day or folder of each; None where that is not known.
        grouped_by: What told the days apart.
        groups: Name and number of images of every day.
        duplicates: Images left out.
        measured: Images that were measured now.
        not_judged: Names of images that were left out because the line would not judge them.
    """

    kind: SourceKind
    scores: tuple[float, ...]
    days: tuple[str, ...] | None
    grouped_by: Grouping
    groups: dict[str, int]
    duplicates: int = 0
    measured: int = 0
    not_judged: tuple[str, ...] = ()

    @classmethod
    def of_card(cls, card: CalibrationCard) -> GoodImages:
        """The images that the bundle was calibrated on."""
        groups = {group.name: group.count for group in card.groups}
        days = None if card.days is None else tuple(card.days)
        return cls("card", tuple(card.scores), days, card.grouped_by, groups)

    @property
    def one_session(self) -> bool:
        return self.grouped_by == "none" or len(self.groups) < 2


@dataclass(frozen=True)
class ProposalOptions:
    """What a proposal is asked for.

    Attributes:
        target: At most this share of good parts may fail, in (0, 1).
        review_rate: At most this share may lie above the review threshold; None as `Recipe.for_rates`.
        confidence: Of the bound for the images at hand, in (0, 1).
        author: Who asks.
    """

    target: float
    review_rate: float | None
    confidence: float
    author: str
