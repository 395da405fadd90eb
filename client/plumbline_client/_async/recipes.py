"""Recipes: read, change, compare, revert, export and import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import Call, given, product_path
from plumbline_client.schemas.recipe import RecipeDiff, RecipeHistory, RecipeRecord
from plumbline_client.schemas.recipe_preview import Distributions, RecipePreview


class AsyncRecipeCalls(AsyncConnection):
    """The part of `AsyncClient` that deals with recipes."""

    async def recipe(self, product: str) -> RecipeRecord:
        """Return the recipe in force."""
        return await self._load(RecipeRecord, Call("GET", _recipe_path(product)))

    async def change_recipe(
        self,
        product: str,
        *,
        author: str | None = None,
        reason: str,
        fail_threshold: float | None = None,
        review_threshold: float | None = None,
        target_false_reject_rate: float | None = None,
        review_rate: float | None = None,
        proposal_id: str | None = None,
        parts: Mapping[str, Any] | None = None,
        expected_revision: int | None = None,
        confirm_removal: int | None = None,
    ) -> RecipeRecord:
        """Change the recipe: thresholds, or rates from which the service derives them, and other sections.

        Args:
            product: Name of the product.
            author: Person who changes the recipe. With authentication, the service records the authenticated name.
            reason: Reason, for the history.
            fail_threshold: Score above which an image fails; together with `review_threshold`.
            review_threshold: Score above which an image needs review.
            target_false_reject_rate: Instead of thresholds: largest share of good parts that may fail.
            review_rate: Largest share of good parts above the review threshold.
            proposal_id: Instead of thresholds and rates: a proposal whose thresholds are applied.
            parts: Other sections by name, for instance `{"heatmap": {"high": 0.4}}`. What is not named keeps its
                value; None resets a value to its default.
            expected_revision: Refuse the change if the recipe in force has another revision.
            confirm_removal: Accept that the images and maps of this number of inspections are removed.

        Raises:
            ServiceProblem: The recipe would not be valid, or its revision is not the expected one
                (`recipe-conflict`). Nothing was changed.
        """
        changes = {
            "fail_threshold": fail_threshold,
            "review_threshold": review_threshold,
            "target_false_reject_rate": target_false_reject_rate,
            "review_rate": review_rate,
            "proposal_id": proposal_id,
            "expected_revision": expected_revision,
            "confirm_removal": confirm_removal,
            "author": author,
        }
        # In `parts`, unlike in the other arguments, None has a meaning and is sent.
        body = {"reason": reason, **given(changes), **(parts or {})}
        return await self._load(RecipeRecord, Call("PUT", _recipe_path(product), json=body))

    async def preview_recipe(
        self,
        product: str,
        *,
        fail_threshold: float | None = None,
        review_threshold: float | None = None,
        target_false_reject_rate: float | None = None,
        review_rate: float | None = None,
        proposal_id: str | None = None,
        parts: Mapping[str, Any] | None = None,
        inspections: int | None = None,
    ) -> RecipePreview:
        """Return what a change of the recipe would do: false-reject rates, and decisions that would differ.

        Args:
            product: Name of the product.
            fail_threshold: As for `change_recipe`, like the following values.
            review_threshold: Score above which an image needs review.
            target_false_reject_rate: Instead of thresholds: largest share of good parts that may fail.
            review_rate: Largest share of good parts above the review threshold.
            proposal_id: Instead of thresholds and rates: a proposal whose thresholds are applied.
            parts: Other sections by name.
            inspections: Number of the newest inspections to decide again.

        Raises:
            ServiceProblem: The recipe would not be valid.
        """
        changes = {
            "fail_threshold": fail_threshold,
            "review_threshold": review_threshold,
            "target_false_reject_rate": target_false_reject_rate,
            "review_rate": review_rate,
            "proposal_id": proposal_id,
            "inspections": inspections,
        }
        body = {**given(changes), **(parts or {})}
        return await self._load(RecipePreview, Call("POST", f"{_recipe_path(product)}:preview", json=body))

    async def distributions(self, product: str, *, hours: float = 8) -> Distributions:
        """Return the distributions of scores and of image quality over the last hours.

        Args:
            product: Name of the product.
            hours: Length of the period that ends now.
        """
        params = {"hours": f"{hours:g}"}
        return await self._load(Distributions, Call("GET", f"{product_path(product)}/distributions", params))

    async def recipe_history(self, product: str) -> list[RecipeRecord]:
        """Return the revisions of the recipe with author, time and reason, newest first."""
        return (await self._load(RecipeHistory, Call("GET", f"{_recipe_path(product)}/revisions"))).items

    async def recipe_revision(self, product: str, revision: int) -> RecipeRecord:
        """Return one revision of the recipe."""
        return await self._load(RecipeRecord, Call("GET", _recipe_path(product, revision)))

    async def compare_recipes(self, product: str, before: int, after: int) -> RecipeDiff:
        """Return the differences between two revisions."""
        return await self._load(RecipeDiff, Call("GET", f"{_recipe_path(product, before)}/diff/{after}"))

    async def revert_recipe(
        self,
        product: str,
        revision: int,
        *,
        author: str | None = None,
        reason: str | None = None,
        expected_revision: int | None = None,
        confirm_removal: int | None = None,
    ) -> RecipeRecord:
        """Put the values of an old revision in force again, as a new revision.

        Args:
            product: Name of the product.
            revision: The old revision.
            author: Person who reverts the recipe. With authentication, the service records the authenticated name.
            reason: Reason, for the history.
            expected_revision: Refuse the change if the recipe in force has another revision.
            confirm_removal: Accept that the images and maps of this number of inspections are removed.

        Raises:
            ServiceProblem: The old thresholds were set by hand for another bundle (`invalid-recipe`), or the revision
                in force is not the expected one (`recipe-conflict`). Nothing was changed.
        """
        body = {
            "author": author,
            "reason": reason,
            "expected_revision": expected_revision,
            "confirm_removal": confirm_removal,
        }
        return await self._load(RecipeRecord, Call("POST", f"{_recipe_path(product, revision)}:revert", json=body))

    async def export_recipe(self, product: str, revision: int | None = None) -> str:
        """Return a revision as a TOML file; by default the one in force."""
        call = Call("GET", _recipe_path(product, revision), headers={"accept": "application/toml"})
        return (await self._send(call)).decode()

    async def import_recipe(
        self,
        product: str,
        toml: str,
        *,
        author: str | None = None,
        reason: str | None = None,
        expected_revision: int | None = None,
        confirm_removal: int | None = None,
    ) -> RecipeRecord:
        """Replace the recipe by that of a TOML file.

        Args:
            product: Name of the product.
            toml: Text of the file.
            author: Person who imports it; by default the author that the file names.
            reason: Reason, for the history; by default the reason that the file states.
            expected_revision: Refuse the change if the recipe in force has another revision.
            confirm_removal: Accept that the images and maps of this number of inspections are removed.

        Raises:
            ServiceProblem: The recipe is not valid, or the revision in force is not the expected one
                (`recipe-conflict`). Nothing was changed.
        """
        headers = {"content-type": "application/toml"}
        headers |= {} if expected_revision is None else {"if-match": f'"{expected_revision}"'}
        params = given({"author": author, "reason": reason, "confirm_removal": confirm_removal})
        call = Call("PUT", _recipe_path(product), params, content=toml.encode(), headers=headers)
        return await self._load(RecipeRecord, call)


def _recipe_path(product: str, revision: int | None = None) -> str:
    return f"{product_path(product)}/recipe" + ("" if revision is None else f"/revisions/{revision}")
