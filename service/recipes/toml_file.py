"""Recipes as TOML files: to read, to compare, to keep with the line's other files, and to put in force again.

A file says all that its revision says. What a file claims about a guarantee is not believed: thresholds are derived
again from the rates that it states, and have to come out as it states them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.bundle.bundle import Bundle
from service.recipes.errors import InvalidRecipe
from service.recipes.recipe import THRESHOLD_FIELDS, Derivation, Recipe, invalid_recipe, parse_recipe

MEDIA_TYPE = "application/toml"

_HEADER = """\
# A recipe of Plumbline. Change what is to change and put it in force with
#   plumbline recipe import FILE --author NAME --reason WHY
# A recipe is imported as a whole: what is left out takes its default, but thresholds that are left out stay as they
# are. certified, calibration_images and derivation are found out again. Thresholds follow from the rates: to set them
# by hand, leave the rates out; to state other rates, leave fail_threshold and review_threshold out.
"""


class RecipeFile(BaseModel):
    """What a file says. All but the recipe may be left out."""

    model_config = ConfigDict(extra="forbid")

    product: str | None = None
    revision: int | None = None
    created_at: datetime | None = None
    author: str | None = None
    reason: str | None = None
    bundle_digest: str | None = None
    recipe: dict[str, Any]


class _Stated(BaseModel):
    """What a file states about thresholds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    fail_threshold: float | None = None
    review_threshold: float | None = None
    target_false_reject_rate: float | None = Field(default=None, gt=0, lt=1)
    review_rate: float | None = Field(default=None, gt=0, lt=1)
    certified: bool | None = None
    calibration_images: int | None = None
    derivation: Derivation | None = None
    proposal_id: str | None = None


def write_toml(about: Mapping[str, Any], recipe: Recipe) -> str:
    """A revision as a file.

    Args:
        about: Product, revision, author and the like.
        recipe: Its recipe.
    """
    # TOML knows no null: what is left out has its default, which is null wherever null is possible.
    return _HEADER + tomli_w.dumps(_without_none({**about, "recipe": recipe.model_dump()}))


def read_toml(data: bytes) -> RecipeFile:
    """Read a file.

    Raises:
        InvalidRecipe: It is not TOML, or says something that no recipe file says.
    """
    try:
        return RecipeFile.model_validate(tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRecipe(f"The file is not TOML: {error}.") from error
    except RecursionError as error:
        raise InvalidRecipe("The file is nested too deeply to be a recipe.") from error
    except ValidationError as error:
        raise invalid_recipe(error) from error


def imported_recipe(file: RecipeFile, bundle: Bundle, current: Recipe, proposed: Callable[[str], Recipe]) -> Recipe:
    """The recipe that a file asks for.

    Args:
        file: What it says.
        bundle: The bundle that serves the product whose recipe it is to be.
        current: The recipe in force, whose thresholds stay where the file states none.
        proposed: The recipe of a stored proposal.

    Raises:
        InvalidRecipe: It is another product's file, is not valid, or does not fit the bundle.
    """
    product = bundle.manifest.product
    if file.product not in (None, product):
        raise InvalidRecipe(
            f"The file is a recipe of {file.product!r}, not of {product!r}; leave `product` out of it to use it here."
        )
    elsewhere = file.bundle_digest not in (None, bundle.digest)
    stated = {name: value for name, value in file.recipe.items() if name in THRESHOLD_FIELDS}
    thresholds = _derive(stated, bundle, elsewhere, proposed) if stated else current
    parts = {name: value for name, value in file.recipe.items() if name not in THRESHOLD_FIELDS}
    recipe = parse_recipe(parts | thresholds.model_dump(include=set(THRESHOLD_FIELDS)))
    return recipe.adapted_to(thresholds) if elsewhere else recipe


def _derive(values: Mapping[str, Any], bundle: Bundle, elsewhere: bool, proposed: Callable[[str], Recipe]) -> Recipe:
    """The thresholds that follow from what a file states about them."""
    try:
        stated = _Stated.model_validate(values)
    except ValidationError as error:
        raise invalid_recipe(error) from error
    rate, scores = stated.target_false_reject_rate, bundle.card.scores
    by_hand = {name: values[name] for name in ("fail_threshold", "review_threshold") if name in values}
    if rate is None:
        hand_set = parse_recipe(by_hand)
        # On the scale of another bundle they mean nothing here, and this says so.
        return hand_set.rederived(scores) if elsewhere else hand_set
    default = Recipe.default(scores)
    rates = (default.target_false_reject_rate, default.review_rate)
    if stated.derivation == "default" and (elsewhere or (rate, stated.review_rate) == rates):
        derived = default
    elif stated.proposal_id is not None and not elsewhere:
        derived = proposed(stated.proposal_id)
    else:
        derived = Recipe.for_rates(scores, rate, stated.review_rate, extrapolate=stated.certified is False)
    for name, value in by_hand.items():
        if not elsewhere and value != getattr(derived, name):
            raise InvalidRecipe(
                f"recipe.{name} is {value:g} in the file, and its rates give {getattr(derived, name):g}. Leave it out "
                "to take what the rates give, or leave the rates out to set both thresholds by hand."
            )
    return derived


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None
    }
