"""What the Python client can do with recipes, in its sync and its async form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plumbline_client.calls import Call
from plumbline_client.schemas.recipe import RecipeDiff, RecipeHistory, RecipeRecord

_TOML = {"accept": "application/toml"}


class RecipeCalls:
    """The part of `Client` that is about recipes."""

    def _send(self, call: Call) -> bytes:
        raise NotImplementedError

    def recipe(self, product: str) -> RecipeRecord:
        """The recipe in force."""
        return RecipeRecord.model_validate_json(self._send(Call("GET", f"/v1/products/{product}/recipe")))

    def change_recipe(
        self,
        product: str,
        *,
        author: str,
        reason: str,
        fail_threshold: float | None = None,
        review_threshold: float | None = None,
        target_false_reject_rate: float | None = None,
        review_rate: float | None = None,
        proposal_id: str | None = None,
        parts: Mapping[str, Any] | None = None,
        expected_revision: int | None = None,
    ) -> RecipeRecord:
        """Put a changed recipe in force: thresholds, or rates from which the service derives them, and other parts.

        Args:
            product: Whose recipe.
            author: Who changes it.
            reason: Why.
            fail_threshold: With `review_threshold`: thresholds set by hand.
            review_threshold: See there.
            target_false_reject_rate: Instead: at most this share of good parts may fail.
            review_rate: At most this share may lie above the review threshold.
            proposal_id: Instead: the thresholds of a proposal.
            parts: The other parts by name, for instance `{"heatmap": {"high": 0.4}}`. What is not named keeps its
                value, None takes it back to its default.
            expected_revision: Refuse the change if the recipe is at another revision.

        Raises:
            ServiceProblem: It is not valid, or somebody else was faster (`recipe-conflict`). Nothing was
                changed.
        """
        change = {
            "fail_threshold": fail_threshold,
            "review_threshold": review_threshold,
            "target_false_reject_rate": target_false_reject_rate,
            "review_rate": review_rate,
            "proposal_id": proposal_id,
            "expected_revision": expected_revision,
        }
        who = {"author": author, "reason": reason}
        return RecipeRecord.model_validate_json(self._send(_change(product, who, change, parts)))

    def recipe_history(self, product: str) -> list[RecipeRecord]:
        """Who changed the recipe, when and why; newest first."""
        call = Call("GET", f"/v1/products/{product}/recipe/revisions")
        return RecipeHistory.model_validate_json(self._send(call)).items

    def recipe_revision(self, product: str, revision: int) -> RecipeRecord:
        """One revision of the recipe, as an inspection names it."""
        return RecipeRecord.model_validate_json(self._send(_read(product, revision)))

    def compare_recipes(self, product: str, before: int, after: int) -> RecipeDiff:
        """What changed from one revision to another."""
        return RecipeDiff.model_validate_json(self._send(_compare(product, before, after)))

    def revert_recipe(
        self,
        product: str,
        revision: int,
        *,
        author: str,
        reason: str | None = None,
        expected_revision: int | None = None,
    ) -> RecipeRecord:
        """Put the values of an old revision in force again, as a new revision.

        Raises:
            ServiceProblem: Its thresholds were set by hand for another bundle (`invalid-recipe`), or somebody else was
                faster (`recipe-conflict`). Nothing was changed.
        """
        call = _revert(product, revision, author, reason, expected_revision)
        return RecipeRecord.model_validate_json(self._send(call))

    def export_recipe(self, product: str, revision: int | None = None) -> str:
        """A revision as a TOML file; the one in force by default."""
        return self._send(_export(product, revision)).decode()

    def import_recipe(
        self,
        product: str,
        toml: str,
        *,
        author: str | None = None,
        reason: str | None = None,
        expected_revision: int | None = None,
    ) -> RecipeRecord:
        """Put the recipe of a TOML file in force, as a whole.

        Args:
            product: Whose recipe.
            toml: The file's text.
            author: Who imports it; None: whom the file names.
            reason: Why; None: what the file says.
            expected_revision: Refuse the change if the recipe is at another revision.

        Raises:
            ServiceProblem: It is not valid, or somebody else was faster. Nothing was changed.
        """
        call = _import(product, toml, author, reason, expected_revision)
        return RecipeRecord.model_validate_json(self._send(call))


class AsyncRecipeCalls:
    """The part of `AsyncClient` that is about recipes."""

    async def _send(self, call: Call) -> bytes:
        raise NotImplementedError

    async def recipe(self, product: str) -> RecipeRecord:
        """As `Client.recipe`."""
        call = Call("GET", f"/v1/products/{product}/recipe")
        return RecipeRecord.model_validate_json(await self._send(call))

    async def change_recipe(
        self,
        product: str,
        *,
        author: str,
        reason: str,
        fail_threshold: float | None = None,
        review_threshold: float | None = None,
        target_false_reject_rate: float | None = None,
        review_rate: float | None = None,
        proposal_id: str | None = None,
        parts: Mapping[str, Any] | None = None,
        expected_revision: int | None = None,
    ) -> RecipeRecord:
        """As `Client.change_recipe`."""
        change = {
            "fail_threshold": fail_threshold,
            "review_threshold": review_threshold,
            "target_false_reject_rate": target_false_reject_rate,
            "review_rate": review_rate,
            "proposal_id": proposal_id,
            "expected_revision": expected_revision,
        }
        call = _change(product, {"author": author, "reason": reason}, change, parts)
        return RecipeRecord.model_validate_json(await self._send(call))

    async def recipe_history(self, product: str) -> list[RecipeRecord]:
        """As `Client.recipe_history`."""
        call = Call("GET", f"/v1/products/{product}/recipe/revisions")
        return RecipeHistory.model_validate_json(await self._send(call)).items

    async def recipe_revision(self, product: str, revision: int) -> RecipeRecord:
        """As `Client.recipe_revision`."""
        return RecipeRecord.model_validate_json(await self._send(_read(product, revision)))

    async def compare_recipes(self, product: str, before: int, after: int) -> RecipeDiff:
        """As `Client.compare_recipes`."""
        return RecipeDiff.model_validate_json(await self._send(_compare(product, before, after)))

    async def revert_recipe(
        self,
        product: str,
        revision: int,
        *,
        author: str,
        reason: str | None = None,
        expected_revision: int | None = None,
    ) -> RecipeRecord:
        """As `Client.revert_recipe`."""
        call = _revert(product, revision, author, reason, expected_revision)
        return RecipeRecord.model_validate_json(await self._send(call))

    async def export_recipe(self, product: str, revision: int | None = None) -> str:
        """As `Client.export_recipe`."""
        return (await self._send(_export(product, revision))).decode()

    async def import_recipe(
        self,
        product: str,
        toml: str,
        *,
        author: str | None = None,
        reason: str | None = None,
        expected_revision: int | None = None,
    ) -> RecipeRecord:
        """As `Client.import_recipe`."""
        call = _import(product, toml, author, reason, expected_revision)
        return RecipeRecord.model_validate_json(await self._send(call))


def _address(product: str, revision: int | None = None) -> str:
    return f"/v1/products/{product}/recipe" + ("" if revision is None else f"/revisions/{revision}")


def _read(product: str, revision: int) -> Call:
    return Call("GET", _address(product, revision))


def _change(
    product: str,
    who: Mapping[str, str],
    change: Mapping[str, float | int | str | None],
    parts: Mapping[str, Any] | None,
) -> Call:
    given = {name: value for name, value in change.items() if value is not None}
    # Not so in the parts: there, None takes a value back to its default.
    return Call("PUT", _address(product), json={**who, **given, **(parts or {})})


def _compare(product: str, before: int, after: int) -> Call:
    return Call("GET", f"{_address(product, before)}/diff/{after}")


def _revert(product: str, revision: int, author: str, reason: str | None, expected_revision: int | None) -> Call:
    given = {"author": author, "reason": reason, "expected_revision": expected_revision}
    return Call("POST", f"{_address(product, revision)}:revert", json=given)


def _export(product: str, revision: int | None) -> Call:
    return Call("GET", _address(product, revision), headers=_TOML)


def _import(product: str, toml: str, author: str | None, reason: str | None, expected_revision: int | None) -> Call:
    params = {name: value for name, value in {"author": author, "reason": reason}.items() if value is not None}
    headers = {"content-type": "application/toml"}
    headers |= {} if expected_revision is None else {"if-match": f'"{expected_revision}"'}
    return Call("PUT", _address(product), params, content=toml.encode(), headers=headers)
