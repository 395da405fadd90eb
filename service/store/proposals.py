"""Proposed thresholds: stored once, read back, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, select

from service.bundle.bundle import Bundle
from service.proposals.derive import recipe_of
from service.proposals.errors import ProposalOutdated, UnknownProposal
from service.recipes.recipe import Recipe
from service.schemas.proposal import Proposal
from service.store.models import ProposalRow
from service.store.session import reading, writing


@dataclass(frozen=True)
class StoredProposal:
    """A proposal and the scores behind it.

    Attributes:
        proposal: As it was answered.
        scores: Of its good images, ascending.
        review_rate: As it was asked for.
    """

    proposal: Proposal
    scores: tuple[float, ...]
    review_rate: float | None

    def recipe_for(self, bundle: Bundle) -> Recipe:
        """Its thresholds as a recipe, derived from the scores once more.

        Raises:
            ProposalOutdated: Its scores are another bundle's.
        """
        if self.proposal.bundle_digest != bundle.digest:
            raise ProposalOutdated(self.proposal.id, self.proposal.bundle_digest, bundle.digest)
        certified = self.proposal.false_reject_rate.certified
        return recipe_of(self.scores, certified, self.review_rate, self.proposal.id)


def add_proposal(engine: Engine, stored: StoredProposal) -> None:
    """Remember a proposal.

    Raises:
        StoreUnavailable: The database does not take it.
    """
    proposal = stored.proposal
    row = ProposalRow(
        id=proposal.id,
        product=proposal.product,
        bundle_digest=proposal.bundle_digest,
        scores=list(stored.scores),
        review_rate=stored.review_rate,
        proposal=proposal.model_dump(mode="json"),
    )
    with writing(engine, "the database did not take the proposal") as session:
        session.add(row)


def get_proposal(engine: Engine, product: str, proposal_id: str) -> StoredProposal:
    """A stored proposal.

    Raises:
        UnknownProposal: The product has none of this id.
        StoreUnavailable: The database does not answer.
    """
    query = select(ProposalRow).where(ProposalRow.id == proposal_id, ProposalRow.product == product)
    with reading(engine) as session:
        row = session.scalars(query).one_or_none()
        if row is not None:
            return StoredProposal(Proposal.model_validate(row.proposal), tuple(row.scores), row.review_rate)
    raise UnknownProposal(product, proposal_id)


def list_proposals(engine: Engine, product: str, *, before: UUID | None = None, limit: int = 50) -> Sequence[Proposal]:
    """A product's proposals, newest first.

    Args:
        engine: The database.
        product: Whose.
        before: Only those older than this id.
        limit: Most proposals to return.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    # Without the scores, of which there may be thousands in each.
    query = select(ProposalRow.proposal).where(ProposalRow.product == product)
    if before is not None:
        query = query.where(ProposalRow.id < str(before))
    with reading(engine) as session:
        found = session.scalars(query.order_by(ProposalRow.id.desc()).limit(limit))
        return [Proposal.model_validate(item) for item in found]
