"""Recipes as TOML files, to read, compare, keep under version control and import again.

A file contains everything of its revision. What it states about a guarantee is not trusted: thresholds are derived
again from the stated rates, and must match the stated thresholds.
"""

from __future__ import annotations

import re
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

MAX_KEY_PARTS = 16
"""Most parts of a dotted key. The time that tomllib takes grows with the square of their number."""
# Texts and comments are matched as a whole, so that dots in them do not count. Their end is optional and no repetition
# gives characters back, so the time is linear for files that are not TOML, too.
_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?)"""
_TOKEN = re.compile(
    r"""\"{3}(?:[^"\\]|\\[\s\S]|"(?!""))*+(?:\"{3})?|'{3}(?:[^']|'(?!''))*+(?:'{3})?|\#[^\n]*+"""
    rf"|(?P<key>{_PART}(?:[ \t]*+\.[ \t]*+{_PART})*+)"
)

_HEADER = """\
# A recipe of Plumbline. Edit it and put it in force with
#   plumbline recipe import PRODUCT FILE --author NAME --reason WHY
# A recipe is imported as a whole: omitted values take their defaults, but omitted thresholds keep their current values.
# certified, calibration_images and derivation are computed again. Thresholds follow from the rates: to set thresholds
# by hand, omit the rates; to use other rates, omit fail_threshold and review_threshold.
"""


class RecipeFile(BaseModel):
    """The content of a recipe file. Everything except the recipe is optional."""

    model_config = ConfigDict(extra="forbid")

    product: str | None = None
    revision: int | None = None
    created_at: datetime | None = None
    author: str | None = None
    reason: str | None = None
    bundle_digest: str | None = None
    recipe: dict[str, Any]


class _Stated(BaseModel):
    """The thresholds and rates that a file states."""

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
    """Return a recipe revision as the content of a TOML file.

    Args:
        about: Product, revision, author and other metadata.
        recipe: The recipe of the revision.
    """
    # TOML has no null. An omitted value takes its default, which is null wherever null is allowed.
    rate = recipe.rate_bound or "no guarantee, the thresholds were set by hand"
    return f"{_HEADER}# Good parts that fail: {rate}\n" + tomli_w.dumps(
        _without_none({**about, "recipe": recipe.model_dump()})
    )


def read_toml(data: bytes) -> RecipeFile:
    """Read the content of a recipe file.

    Raises:
        InvalidRecipe: It is not TOML, or has a field that recipe files do not have.
    """
    try:
        text = data.decode()
        _require_short_keys(text)
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRecipe(f"The file is not TOML: {toml_problem(error)}.") from error
    except ValueError as error:  # Python limits the number of digits, because reading them takes long
        raise InvalidRecipe("The file has a number with too many digits to be a recipe.") from error
    except RecursionError as error:
        raise _too_deep() from error
    try:
        return RecipeFile.model_validate(content)
    except ValidationError as error:
        raise invalid_recipe(error, RecipeFile) from error


def _require_short_keys(text: str) -> None:
    for token in _TOKEN.finditer(text):
        key = token["key"]
        if key is not None and key.count(".") >= MAX_KEY_PARTS and len(re.findall(_PART, key)) > MAX_KEY_PARTS:
            raise _too_deep()


def _too_deep() -> InvalidRecipe:
    return InvalidRecipe("The file is nested too deeply to be a recipe.")


def toml_problem(error: tomllib.TOMLDecodeError | UnicodeDecodeError) -> str:
    """Return what is wrong with a TOML file, with the line and the column."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not UTF-8"
    # tomllib states the place at the end of its message.
    place = re.search(r"\(at line (\d+), column (\d+)\)$", str(error))
    return f"line {place[1]}, column {place[2]} is not valid" if place else "it ends too early"


def imported_recipe(file: RecipeFile, bundle: Bundle, current: Recipe, proposed: Callable[[str], Recipe]) -> Recipe:
    """Return the recipe that results from importing a file.

    Args:
        file: The content of the file.
        bundle: The active bundle of the product that the recipe is imported for.
        current: The recipe in force. Its thresholds are kept where the file states none.
        proposed: Returns the recipe of a stored proposal by its id.

    Raises:
        InvalidRecipe: The file belongs to another product, is not valid, or does not fit the bundle.
    """
    product = bundle.manifest.product
    if file.product not in (None, product):
        raise InvalidRecipe(
            f"The file is a recipe of {file.product!r}, not of {product!r}. Remove `product` from the file to import "
            "it."
        )
    is_other_bundle = file.bundle_digest not in (None, bundle.digest)
    stated = {name: value for name, value in file.recipe.items() if name in THRESHOLD_FIELDS}
    thresholds = _derive(stated, bundle, is_other_bundle, proposed) if stated else current
    parts = {name: value for name, value in file.recipe.items() if name not in THRESHOLD_FIELDS}
    recipe = parse_recipe(parts | thresholds.model_dump(include=set(THRESHOLD_FIELDS)))
    return recipe.adapted_to(thresholds) if is_other_bundle else recipe


def _derive(
    values: Mapping[str, Any], bundle: Bundle, is_other_bundle: bool, proposed: Callable[[str], Recipe]
) -> Recipe:
    """Return a recipe with the thresholds that follow from the values of a file."""
    try:
        stated = _Stated.model_validate(values)
    except ValidationError as error:
        raise invalid_recipe(error, _Stated) from error
    rate, scores = stated.target_false_reject_rate, bundle.card.scores
    by_hand = {name: values[name] for name in ("fail_threshold", "review_threshold") if name in values}
    if rate is None:
        hand_set = parse_recipe(by_hand)
        # Thresholds set by hand for another bundle do not apply here: `rederived` raises the error.
        return hand_set.rederived(scores) if is_other_bundle else hand_set
    default = Recipe.default(scores)
    rates = (default.target_false_reject_rate, default.review_rate)
    if stated.derivation == "default" and (is_other_bundle or (rate, stated.review_rate) == rates):
        derived = default
    elif stated.proposal_id is not None and not is_other_bundle:
        derived = proposed(stated.proposal_id)
    else:
        derived = Recipe.for_rates(scores, rate, stated.review_rate, extrapolate=stated.certified is False)
    for name, value in by_hand.items():
        if not is_other_bundle and value != getattr(derived, name):
            raise InvalidRecipe(
                f"recipe.{name} is {value:g} in the file, but its rates give {getattr(derived, name):g}. Omit it to "
                "use the value that follows from the rates, or omit the rates to set both thresholds by hand."
            )
    return derived


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None
    }
