"""Proposed thresholds: stored once, read back, never changed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.bundle import Bundle
from service.proposal import Proposal, recipe_of
from service.recipe import Recipe
from service.store.errors import ProposalOutdated, StoreUnavailable, UnknownProposal
from service.store.models import ProposalRow

_KEPT = 64


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
    try:
        with Session(engine) as session, session.begin():
            session.add(row)
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database did not take the proposal ({error.__cause__ or error})") from error


def get_proposal(engine: Engine, product: str, proposal_id: str) -> StoredProposal:
    """A stored proposal.

    Raises:
        UnknownProposal: The product has none of this id.
        StoreUnavailable: The database does not answer.
    """
    query = select(ProposalRow).where(ProposalRow.id == proposal_id, ProposalRow.product == product)
    try:
        with Session(engine) as session:
            row = session.scalars(query).one_or_none()
            if row is not None:
                return StoredProposal(Proposal.model_validate(row.proposal), tuple(row.scores), row.review_rate)
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database does not answer ({error.__cause__ or error})") from error
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
    try:
        with Session(engine) as session:
            found = session.scalars(query.order_by(ProposalRow.id.desc()).limit(limit))
            return [Proposal.model_validate(item) for item in found]
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database does not answer ({error.__cause__ or error})") from error


class References:
    """The scores that p-values are taken against: always the set that the thresholds were derived from.

    So a part fails exactly when its p-value is at most the target rate, whichever good images that rate rests on.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # A proposal never changes, so what was read once is true for ever.
        self._read: dict[str, tuple[float, ...]] = {}
        self._lock = threading.Lock()

    def scores(self, bundle: Bundle, recipe: Recipe) -> Sequence[float]:
        """Ascending scores of the good images behind a recipe.

        Args:
            bundle: The bundle that the recipe is in force for.
            recipe: What is judged by.

        Raises:
            StoreUnavailable: The database does not answer, or has lost the proposal.
        """
        if recipe.proposal_id is None:
            return bundle.card.scores
        known = self._read.get(recipe.proposal_id)
        if known is None:
            try:
                known = get_proposal(self._engine, bundle.manifest.product, recipe.proposal_id).scores
            except UnknownProposal as error:
                raise StoreUnavailable(f"the proposal {recipe.proposal_id} of the recipe is not in it") from error
            with self._lock:
                if len(self._read) >= _KEPT:
                    self._read.clear()
                self._read[recipe.proposal_id] = known
        return known
