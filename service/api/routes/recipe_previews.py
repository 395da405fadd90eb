"""The effect of a recipe change before it is made, and the distributions that it is judged by."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.deps import DistributionsDep, PrincipalDep, RecipePreviewsDep
from service.api.http.access import requires
from service.api.http.body_limit import RECIPE, limit_body
from service.api.http.problems import problem_responses
from service.api.parameters import ProductPath
from service.api.recipe_preview_mapping import to_distributions, to_recipe_preview
from service.deployment.errors import ProductNotReady, UnknownProduct
from service.errors import BodyTooLarge, InvalidRequest
from service.proposals.errors import ProposalOutdated, UnknownProposal
from service.recipes.errors import InvalidRecipe
from service.schemas.recipe_preview import Distributions, RecipePreview, RecipePreviewRequest
from service.serving.errors import PreviewsBusy
from service.store.errors import StoreUnavailable

router = APIRouter(prefix="/v1/products", tags=["recipes"])


@router.post(
    "/{product}/recipe:preview",
    operation_id="preview_recipe",
    summary="Show the effect of a recipe change",
    responses=problem_responses(
        UnknownProduct, UnknownProposal, BodyTooLarge, InvalidRequest, InvalidRecipe, ProposalOutdated, ProductNotReady,
        PreviewsBusy, StoreUnavailable,
    ),
)  # fmt: skip
@limit_body(RECIPE)
@requires("engineer")
def preview_recipe(product: ProductPath, change: RecipePreviewRequest, previews: RecipePreviewsDep) -> RecipePreview:
    """Return what a change of the recipe would do. Nothing is changed.

    The response contains the bounds of the false-reject rate of both thresholds, and the decisions of the newest
    inspections and of the labelled ones, as they were made and as the changed recipe makes them. They are decided from
    stored scores, maps and quality measures of the active bundle, by the same code that decides about new images.
    """
    return to_recipe_preview(product, previews.preview(product, change, change.inspections))


@router.get(
    "/{product}/distributions",
    operation_id="get_distributions",
    summary="Get distributions of scores and image quality",
    responses=problem_responses(UnknownProduct, InvalidRequest, ProductNotReady, StoreUnavailable),
)
@requires("inspect")
def read_distributions(
    product: ProductPath,
    distributions: DistributionsDep,
    principal: PrincipalDep,
    hours: Annotated[float, Query(gt=0, le=24 * 31, description="Length of the period that ends now, in hours.")] = 8,
) -> Distributions:
    """Return the distributions of scores and of image quality over the last hours, with the limits in force.

    At most 5000 inspections are considered, the newest ones.
    """
    return to_distributions(product, distributions.distributions(product, hours, principal.stations))
