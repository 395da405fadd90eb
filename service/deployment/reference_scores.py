"""The scores of good images that p-values are computed against."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sqlalchemy import Engine

from service.bundle.bundle import Bundle
from service.proposals.errors import UnknownProposal
from service.recipes.recipe import Recipe
from service.store.errors import StoreUnavailable
from service.store.proposals import get_proposal

_MAX_CACHED = 64


class ReferenceScores:
    """The reference scores of recipes: always the scores that the recipe's thresholds were derived from.

    So a part fails exactly if its p-value is at most the target rate, whether the rate was derived from the calibration
    card or from a proposal.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Never invalidated, because a stored proposal never changes.
        self._cache: dict[str, tuple[float, ...]] = {}
        self._lock = threading.Lock()

    def scores(self, bundle: Bundle, recipe: Recipe) -> Sequence[float]:
        """Return the reference scores of a recipe, ascending.

        Args:
            bundle: The bundle that the recipe is in force for.
            recipe: The recipe.

        Raises:
            StoreUnavailable: The database cannot be read, or the recipe's proposal is missing from it.
        """
        if recipe.proposal_id is None:
            return bundle.card.scores
        cached = self._cache.get(recipe.proposal_id)
        if cached is None:
            try:
                cached = get_proposal(self._engine, bundle.manifest.product, recipe.proposal_id).scores
            except UnknownProposal as error:
                raise StoreUnavailable(f"it does not contain the recipe's proposal {recipe.proposal_id}") from error
            with self._lock:
                if len(self._cache) >= _MAX_CACHED:
                    self._cache.clear()
                self._cache[recipe.proposal_id] = cached
        return cached
