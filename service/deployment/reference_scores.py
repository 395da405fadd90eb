"""The good images' scores that p-values are taken against."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sqlalchemy import Engine

from service.bundle.bundle import Bundle
from service.proposals.errors import UnknownProposal
from service.recipes.recipe import Recipe
from service.store.errors import StoreUnavailable
from service.store.proposals import get_proposal

_KEPT = 64


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
