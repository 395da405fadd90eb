"""Products and their recipes over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from starlette.responses import Response

from service.api.answers import product_answer, recipe_answer
from service.api.deps import LineDep, ProductPath
from service.api.problems import problem_responses
from service.api.schemas import Product, ProductList, RecipeChange, RecipeHistory, RecipeRecord
from service.errors import (
    BodyTooLarge,
    InvalidRecipe,
    InvalidRequest,
    ProductNotReady,
    UnknownProduct,
)
from service.line import InspectionLine
from service.recipe import Recipe, parse_recipe
from service.recipe_parts import HeatmapSetting
from service.registry import ActiveProduct
from service.store.errors import (
    ProposalOutdated,
    RecipeConflict,
    StoreUnavailable,
    UnknownProposal,
    UnknownRevision,
)
from service.store.proposals import get_proposal
from service.store.recipes import RecipeRevision, append_recipe, get_recipe, recipe_history

router = APIRouter(prefix="/v1/products", tags=["products"])

_ETAG = {"ETag": {"description": "The revision; send it as If-Match with a change.", "schema": {"type": "string"}}}


@router.get("", operation_id="list_products", summary="List products", responses=problem_responses())
async def list_products(line: LineDep) -> ProductList:
    """Every product of the model repository, served or not."""
    return ProductList(items=[_product(line, name) for name in sorted(line.registry.known)])


@router.get(
    "/{product}",
    operation_id="get_product",
    summary="Read a product",
    responses=problem_responses(UnknownProduct, InvalidRequest),
)
async def read_product(product: ProductPath, line: LineDep) -> Product:
    """A product with its bundle, its calibration and its recipe; or why it is not served."""
    if product not in line.registry.known:
        raise UnknownProduct(product, line.registry.known)
    return _product(line, product)


@router.get(
    "/{product}/recipe",
    operation_id="get_recipe",
    summary="Read the recipe in force",
    response_model=RecipeRecord,
    responses={
        200: {"headers": _ETAG},
        **problem_responses(UnknownProduct, InvalidRequest, ProductNotReady),
    },
)
async def read_recipe(product: ProductPath, line: LineDep) -> Response:
    """The recipe that the next inspection is judged by."""
    return _recipe_response(line.registry.get(product).recipe)


@router.put(
    "/{product}/recipe",
    operation_id="change_recipe",
    summary="Change the recipe",
    response_model=RecipeRecord,
    responses={
        200: {"headers": _ETAG},
        **problem_responses(
            UnknownProduct, UnknownProposal, BodyTooLarge, InvalidRequest, InvalidRecipe, RecipeConflict,
            ProposalOutdated, ProductNotReady, StoreUnavailable,
        ),
    },
)  # fmt: skip
def change_recipe(
    product: ProductPath,
    change: RecipeChange,
    line: LineDep,
    if_match: Annotated[
        str | None, Header(pattern=r'^"?[0-9]{1,9}"?$', description="Revision that the change is made against.")
    ] = None,
) -> Response:
    """Put a changed recipe in force, from the next inspection on. The old revision stays in the history.

    What the change does not name keeps its value, at every depth. Thresholds are changed by `fail_threshold` and
    `review_threshold` (nothing is guaranteed then), by `target_false_reject_rate`, from which the calibration card
    derives them, or by `proposal_id`, whose good images do. The recipe that would come out is validated as a whole; a
    change that is not valid changes nothing.
    """
    expected = change.expected_revision if if_match is None else int(if_match.strip('"'))

    def store(active: ActiveProduct) -> RecipeRevision:
        return append_recipe(
            line.store.engine,
            active.bundle,
            to_recipe(change, active, line),
            author=change.author,
            reason=change.reason,
            expected_revision=expected,
        )

    return _recipe_response(line.registry.change_recipe(product, store))


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
    if product not in line.registry.known:
        raise UnknownProduct(product, line.registry.known)
    history = recipe_history(line.store.engine, product, limit=limit)
    return RecipeHistory(items=[recipe_answer(revision) for revision in history])


@router.get(
    "/{product}/recipe/revisions/{revision}",
    operation_id="get_recipe_revision",
    summary="Read one revision of the recipe",
    responses=problem_responses(UnknownProduct, UnknownRevision, InvalidRequest, StoreUnavailable),
)
def read_revision(
    product: ProductPath, revision: Annotated[int, Path(ge=1, le=2**31 - 1)], line: LineDep
) -> RecipeRecord:
    """The revision that an inspection names."""
    if product not in line.registry.known:
        raise UnknownProduct(product, line.registry.known)
    return recipe_answer(get_recipe(line.store.engine, product, revision))


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
        proposal = get_proposal(line.store.engine, active.bundle.manifest.product, change.proposal_id)
        thresholds = proposal.recipe_for(active.bundle)
    elif change.fail_threshold is not None:
        thresholds = parse_recipe(change.model_dump(include={"fail_threshold", "review_threshold"}))
    recipe = active.recipe.recipe.changed(change.parts(), thresholds)
    _require_scale(recipe, active)
    return recipe


def _require_scale(recipe: Recipe, active: ActiveProduct) -> None:
    """Refuse a heatmap scale whose ends are in the wrong order; those that nobody chose are left alone."""
    heatmap = recipe.heatmap
    scale = active.inspector.heatmap_scale(recipe.thresholds, heatmap.low, heatmap.high)
    if scale.low >= scale.high and heatmap != HeatmapSetting():
        raise InvalidRecipe(
            f"The heatmap's scale would run from {scale.low:g} to {scale.high:g}; heatmap.low (by default the median "
            "of good maps) must lie below heatmap.high (by default the fail threshold)."
        )


def _product(line: InspectionLine, name: str) -> Product:
    registry = line.registry
    broken = [item for item in registry.broken if item.product == name]
    return product_answer(
        name, registry.active.get(name), registry.shadows.get(name), broken, is_loading=registry.is_loading(name)
    )


def _recipe_response(revision: RecipeRevision) -> Response:
    body = recipe_answer(revision).model_dump_json()
    return Response(body, headers={"ETag": f'"{revision.revision}"'}, media_type="application/json")
