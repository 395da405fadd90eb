"""Threshold proposals. A stored proposal is never changed."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Engine, select

from service.proposals.errors import UnknownProposal
from service.schemas.proposal import Proposal
from service.store.models import ProposalRow
from service.store.records import StoredProposal
from service.store.session import reading, writing


def add_proposal(engine: Engine, stored: StoredProposal) -> None:
    """Store a proposal.

    Raises:
        StoreUnavailable: The database cannot store it.
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
    with writing(engine, "the proposal cannot be stored") as session:
        session.add(row)


def get_proposal(engine: Engine, product: str, proposal_id: str) -> StoredProposal:
    """Return a stored proposal.

    Raises:
        UnknownProposal: The product has no proposal with this id.
        StoreUnavailable: The database cannot be read.
    """
    query = select(ProposalRow).where(ProposalRow.id == proposal_id, ProposalRow.product == product)
    with reading(engine) as session:
        row = session.scalars(query).one_or_none()
        if row is not None:
            return StoredProposal(Proposal.model_validate(row.proposal), tuple(row.scores), row.review_rate)
    raise UnknownProposal(product, proposal_id)


def list_proposals(engine: Engine, product: str, *, before: UUID | None = None, limit: int = 50) -> Sequence[Proposal]:
    """Return a product's proposals, newest first.

    Args:
        engine: The database.
        product: The product.
        before: Return only proposals older than this id.
        limit: Maximum number of proposals.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    # Without the scores: a proposal may have thousands.
    query = select(ProposalRow.proposal).where(ProposalRow.product == product)
    if before is not None:
        query = query.where(ProposalRow.id < str(before))
    with reading(engine) as session:
        found = session.scalars(query.order_by(ProposalRow.id.desc()).limit(limit))
        return [Proposal.model_validate(item) for item in found]
