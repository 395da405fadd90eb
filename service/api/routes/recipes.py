"""A product's recipe over HTTP: read, change, compare, return to an old one, as JSON or as a TOML file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from service.api.answers import recipe_answer, revision_facts
from service.api.deps import LineDep, ProductPath
from service.api.http.bodies import read_as
from service.api.http.errors import NotAcceptable
from service.api.http.negotiation import negotiate
from service.api.http.problems import problem_responses
from service.deployment.errors import ProductNotReady, UnknownProduct
from service.deployment.lease import ActiveProduct
from service.deployment.recipes import proposed_recipe, replace_recipe, reverted_recipe
from service.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from service.proposals.errors import ProposalOutdated, UnknownProposal
from service.recipes.errors import InvalidRecipe
from service.recipes.recipe import Recipe, parse_recipe
from service.recipes.sections import HeatmapSetting, differences
from service.recipes.toml_file import MEDIA_TYPE as TOML
from service.recipes.toml_file import RecipeFile, imported_recipe, read_toml, write_toml
from service.schemas.common import Label
from service.schemas.recipe import (
    RecipeChange,
    RecipeDiff,
    RecipeDifference,
    RecipeHistory,
    RecipeRecord,
    RecipeRevert,
    Signature,
)
from service.serving.inspections import InspectionLine
from service.store.errors import RecipeConflict, StoreUnavailable, UnknownRevision
from service.store.proposals import get_proposal
from service.store.recipes import append_recipe, get_recipe, recipe_history
from service.store.records import RecipeRevision

router = APIRouter(prefix="/v1/products", tags=["recipes"])

JSON = "application/json"
MAX_RECIPE_BYTES = 2**20

_ETAG = {"ETag": {"description": "The revision; send it as If-Match with a change.", "schema": {"type": "string"}}}
_TOML_FILE = {TOML: {"schema": {"type": "string"}}}
_READABLE: dict[int | str, dict[str, Any]] = {200: {"headers": _ETAG, "content": _TOML_FILE}}

RevisionPath = Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of the revision.")]
IfMatch = Annotated[
    str | None, Header(pattern=r'^"?[0-9]{1,9}"?$', description="Revision that the change is made against.")
]


@dataclass(frozen=True)
class _Body:
    """What was sent, not yet read: reading a recipe takes its time and happens in the thread pool."""

    media_type: str
    data: bytes


async def _recipe_body(request: Request) -> _Body:
    content_type = request.headers.get("content-type", "")
    media_type = content_type.split(";")[0].strip().lower()
    if media_type not in (JSON, TOML):
        raise UnsupportedMediaType(content_type or None, (JSON, TOML))
    data = await request.body()
    if len(data) > MAX_RECIPE_BYTES:
        raise BodyTooLarge(MAX_RECIPE_BYTES)
    return _Body(media_type, data)


@router.get(
    "/{product}/recipe",
    operation_id="get_recipe",
    summary="Read the recipe in force",
    response_model=RecipeRecord,
    responses={**_READABLE, **problem_responses(UnknownProduct, InvalidRequest, NotAcceptable, ProductNotReady)},
)
async def read_recipe(request: Request, product: ProductPath, line: LineDep) -> Response:
    """The recipe that the next inspection is judged by; with `Accept: application/toml` as a file."""
    return _answer(line.registry.get(product).recipe, request.headers.get("accept"))


@router.put(
    "/{product}/recipe",
    operation_id="change_recipe",
    summary="Change the recipe",
    response_model=RecipeRecord,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A change, or a whole recipe as a TOML file.",
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/RecipeChange"}}} | _TOML_FILE,
        }
    },
    responses={
        200: {"headers": _ETAG},
        **problem_responses(
            UnknownProduct, UnknownProposal, BodyTooLarge, UnsupportedMediaType, InvalidRequest, InvalidRecipe,
            RecipeConflict, ProposalOutdated, ProductNotReady, StoreUnavailable,
        ),
    },
)  # fmt: skip
def change_recipe(
    product: ProductPath,
    body: Annotated[_Body, Depends(_recipe_body)],
    line: LineDep,
    author: Annotated[Label | None, Query(description="Who imports a file; wins over the file's.")] = None,
    reason: Annotated[str | None, Query(max_length=1000, description="Why; wins over the file's.")] = None,
    if_match: IfMatch = None,
) -> Response:
    """Put a changed recipe in force, from the next inspection on. The old revision stays in the history.

    As JSON: what the change does not name keeps its value, at every depth. Thresholds are changed by `fail_threshold`
    and `review_threshold` (nothing is guaranteed then), by `target_false_reject_rate`, from which the calibration card
    derives them, or by `proposal_id`, whose good images do.

    As TOML: a recipe as a whole, as `GET` with `Accept: application/toml` gives it. What the file does not name takes
    its default, but thresholds that it does not name stay as they are. Thresholds are derived again from the rates that
    it states; where it was made for another bundle, from this one's calibration card.

    The recipe that would come out is validated as a whole; a change that is not valid changes nothing.
    """
    if body.media_type == JSON:
        change = read_as(RecipeChange, body.data, "body")
        signature = Signature(author=change.author, reason=change.reason)
        expected = _expected(if_match, change.expected_revision)
        return _put(line, product, lambda active: (to_recipe(change, active, line), signature), expected)
    file = read_toml(body.data)
    signature = _sign(author or file.author, reason or file.reason)
    return _put(line, product, lambda active: (_import(file, active, line), signature), _expected(if_match, None))


@router.get(
    "/{product}/recipe/revisions",
    operation_id="list_recipe_revisions",
    summary="List the recipe's revisions",
    responses=problem_responses(UnknownProduct, InvalidRequest, StoreUnavailable),
)
def list_revisions(
    product: ProductPath,
    line: LineDep,
    limit: Annotated[int, Query(ge=1, le=500, description="Most revisions to list.")] = 100,
) -> RecipeHistory:
    """Who changed what, when and why; newest first."""
    _require_known(line, product)
    history = recipe_history(line.store.engine, product, limit=limit)
    return RecipeHistory(items=[recipe_answer(revision) for revision in history])


@router.get(
    "/{product}/recipe/revisions/{revision}",
    operation_id="get_recipe_revision",
    summary="Read one revision of the recipe",
    response_model=RecipeRecord,
    responses={
        **_READABLE,
        **problem_responses(UnknownProduct, UnknownRevision, InvalidRequest, NotAcceptable, StoreUnavailable),
    },
)
def read_revision(request: Request, product: ProductPath, revision: RevisionPath, line: LineDep) -> Response:
    """The revision that an inspection names; with `Accept: application/toml` as a file."""
    _require_known(line, product)
    return _answer(get_recipe(line.store.engine, product, revision), request.headers.get("accept"))


@router.get(
    "/{product}/recipe/revisions/{revision}/diff/{other}",
    operation_id="compare_recipe_revisions",
    summary="Compare two revisions of the recipe",
    responses=problem_responses(UnknownProduct, UnknownRevision, InvalidRequest, StoreUnavailable),
)
def compare_revisions(
    product: ProductPath,
    revision: RevisionPath,
    other: Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of the revision to compare it with.")],
    line: LineDep,
) -> RecipeDiff:
    """What changed from the first revision to the second, value by value."""
    _require_known(line, product)
    before, after = (get_recipe(line.store.engine, product, number) for number in (revision, other))
    found = differences(before.recipe.model_dump(mode="json"), after.recipe.model_dump(mode="json"))
    return RecipeDiff(
        before=revision_facts(before),
        after=revision_facts(after),
        differences=[RecipeDifference(path=path, before=old, after=new) for path, old, new in found],
    )


@router.post(
    "/{product}/recipe/revisions/{revision}:revert",
    operation_id="revert_recipe",
    summary="Return to an old revision of the recipe",
    response_model=RecipeRecord,
    responses={
        200: {"headers": _ETAG},
        **problem_responses(
            UnknownProduct, UnknownRevision, BodyTooLarge, InvalidRequest, InvalidRecipe, RecipeConflict,
            ProductNotReady, StoreUnavailable,
        ),
    },
)  # fmt: skip
def revert_recipe(
    product: ProductPath, revision: RevisionPath, revert: RecipeRevert, line: LineDep, if_match: IfMatch = None
) -> Response:
    """Put the values of an old revision in force again, as a new revision.

    Where it was made for another bundle, its thresholds are derived again from the calibration card of the one that
    serves, and what lies on the other bundle's scale (the heatmap's scale, least peaks) goes back to its default.
    Thresholds that were set by hand for another bundle are refused.
    """
    _require_known(line, product)
    old = get_recipe(line.store.engine, product, revision)

    def make(active: ActiveProduct) -> tuple[Recipe, Signature]:
        moved = "" if old.bundle_digest == active.bundle.digest else f", derived for bundle {active.bundle.version}"
        why = f"Revision {revision} again{moved}" + (f": {revert.reason}" if revert.reason else ".")
        return reverted_recipe(old, active.bundle), Signature(author=revert.author, reason=why)

    return _put(line, product, make, _expected(if_match, revert.expected_revision))


def to_recipe(change: RecipeChange, active: ActiveProduct, line: InspectionLine) -> Recipe:
    """The recipe that a change makes of the one in force.

    Raises:
        InvalidRecipe: It contradicts itself, or the calibration card cannot certify the rate.
        UnknownProposal, ProposalOutdated: The proposal is not there, or not for this bundle.
    """
    thresholds: Recipe | None = None
    if change.target_false_reject_rate is not None:
        scores = active.bundle.card.scores
        thresholds = Recipe.for_rates(
            scores, change.target_false_reject_rate, change.review_rate, extrapolate=change.extrapolate
        )
    elif change.proposal_id is not None:
        thresholds = _proposed(line, active, change.proposal_id)
    elif change.fail_threshold is not None:
        thresholds = parse_recipe(change.model_dump(include={"fail_threshold", "review_threshold"}))
    return active.recipe.recipe.changed(change.parts(), thresholds)


def _put(
    line: InspectionLine,
    product: str,
    make: Callable[[ActiveProduct], tuple[Recipe, Signature]],
    expected_revision: int | None,
) -> Response:
    """Put a recipe in force: made from what is active, checked, stored and active itself, with nothing in between."""

    def store(active: ActiveProduct) -> RecipeRevision:
        recipe, signature = make(active)
        _require_scale(recipe, active)
        return append_recipe(
            line.store.engine,
            active.bundle,
            recipe,
            author=signature.author,
            reason=signature.reason,
            expected_revision=expected_revision,
        )

    return _answer(replace_recipe(line.registry, line.store.engine, product, store), None)


def _sign(author: str | None, reason: str | None) -> Signature:
    try:
        return Signature.model_validate({"author": author, "reason": reason})
    except ValidationError as error:
        what = "; ".join(f"{item['loc'][0]}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors())
        raise InvalidRequest(
            f"The import is not signed: {what}. Say who and why with the query parameters `author` and `reason`, or in "
            "the file."
        ) from error


def _import(file: RecipeFile, active: ActiveProduct, line: InspectionLine) -> Recipe:
    current = active.recipe.recipe
    return imported_recipe(file, active.bundle, current, lambda proposal_id: _proposed(line, active, proposal_id))


def _proposed(line: InspectionLine, active: ActiveProduct, proposal_id: str) -> Recipe:
    stored = get_proposal(line.store.engine, active.bundle.manifest.product, proposal_id)
    return proposed_recipe(stored, active.bundle)


def _expected(if_match: str | None, stated: int | None) -> int | None:
    return stated if if_match is None else int(if_match.strip('"'))


def _require_known(line: InspectionLine, product: str) -> None:
    if product not in line.registry.known:
        raise UnknownProduct(product, line.registry.known)


def _require_scale(recipe: Recipe, active: ActiveProduct) -> None:
    """Refuse a heatmap scale whose ends are in the wrong order; those that nobody chose are left alone."""
    heatmap = recipe.heatmap
    scale = active.inspector.heatmap_scale(recipe.thresholds, heatmap.low, heatmap.high)
    if scale.low >= scale.high and heatmap != HeatmapSetting():
        raise InvalidRecipe(
            f"The heatmap's scale would run from {scale.low:g} to {scale.high:g}; heatmap.low (by default the median "
            "of good maps) must lie below heatmap.high (by default the fail threshold)."
        )


def _answer(revision: RecipeRevision, accept: str | None) -> Response:
    """A revision in the form that the client asks for."""
    wanted = negotiate(accept, (JSON, TOML))
    if wanted == TOML:
        content = write_toml(revision_facts(revision).model_dump(), revision.recipe)
    else:
        content = recipe_answer(revision).model_dump_json()
    return Response(content, headers={"ETag": f'"{revision.revision}"', "Vary": "Accept"}, media_type=wanted)
