"""The input of a threshold proposal: good images and options.

A proposal is not in force. It is computed once from the scores of good images and stored with them. A recipe that names
its id applies it; the guarantee of that recipe is derived again from the stored scores.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.bundle.card import CalibrationCard
from service.schemas.proposal import Grouping, SourceKind


@dataclass(frozen=True)
class GoodImages:
    """Scores of good images on one bundle's scale.

    Attributes:
        kind: Source of the images.
        scores: Raw image scores, in any order.
        days: Day or folder of each score; None where it is unknown.
        grouped_by: How the days were found.
        groups: Name and number of images of every day.
        duplicates: Number of repeated images that were left out.
        measured: Number of images that were measured for this proposal.
        reviewed_good: Number of images that joined because they are labelled good by reviews.
        labelled_defect: Ids of inspections that were left out because of their label.
        not_judged: Names of images that the quality check rejected.
        compared: Whether the images were compared with those that the bundle was made from; False for a bundle that
            does not list them.
    """

    kind: SourceKind
    scores: tuple[float, ...]
    days: tuple[str, ...] | None
    grouped_by: Grouping
    groups: dict[str, int]
    duplicates: int = 0
    measured: int = 0
    reviewed_good: int = 0
    labelled_defect: tuple[str, ...] = ()
    not_judged: tuple[str, ...] = ()
    compared: bool = True

    @classmethod
    def of_card(cls, card: CalibrationCard) -> GoodImages:
        """Return the images that the bundle was calibrated on."""
        groups = {group.name: group.count for group in card.groups}
        days = None if card.days is None else tuple(card.days)
        return cls("card", tuple(card.scores), days, card.grouped_by, groups)

    @property
    def one_session(self) -> bool:
        """Return whether all images count as one session."""
        return self.grouped_by == "none" or len(self.groups) < 2


@dataclass(frozen=True)
class ProposalOptions:
    """Options of a requested proposal.

    Attributes:
        target: Largest share of good parts that may fail, in (0, 1).
        review_rate: Largest share of good parts above the review threshold; None as in `Recipe.for_rates`.
        confidence: Confidence of the bound for the given images, in (0, 1).
        author: Person who requested the proposal.
    """

    target: float
    review_rate: float | None
    confidence: float
    author: str
