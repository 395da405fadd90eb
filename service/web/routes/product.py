"""The page of a product's thresholds: distribution of scores, and what other thresholds would do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.deps import DistributionsDep, RecipePreviewsDep
from service.api.http.access import requires
from service.api.parameters import ProductPath
from service.api.recipe_preview_mapping import to_distributions, to_recipe_preview
from service.schemas.recipe import RecipeEdit
from service.web.page import PagesDep
from service.web.product_frame import frame, product_of

router = APIRouter(include_in_schema=False)

PERIODS_H = (1, 8, 24, 168)
PREVIEWED = 1000
Threshold = Annotated[float, Query(allow_inf_nan=False)]


@router.get("/products/{product}")
@requires("engineer")
def product_page(
    request: Request,
    product: ProductPath,
    pages: PagesDep,
    distributions: DistributionsDep,
    hours: Annotated[int, Query(ge=1, le=24 * 31)] = 8,
) -> Response:
    """Return the page of the thresholds of a product; for a product that is not served, the reason."""
    texts = pages.texts(request)
    found = product_of(request, product)
    context = frame(found, texts)
    if found.recipe is None:
        return pages.page(request, "product_not_ready.html", **context)
    shown = to_distributions(product, distributions.distributions(product, hours))
    context |= {"distributions": shown, "recipe": found.recipe, "hours": hours, "periods": PERIODS_H}
    return pages.page(request, "product.html", **context)


@router.get("/products/{product}/preview")
@requires("engineer")
def preview_part(
    request: Request,
    product: ProductPath,
    pages: PagesDep,
    previews: RecipePreviewsDep,
    fail_threshold: Threshold,
    review_threshold: Threshold,
) -> Response:
    """Return what the decisions and the false-reject rate would be with other thresholds."""
    edit = RecipeEdit(fail_threshold=fail_threshold, review_threshold=review_threshold)
    preview = to_recipe_preview(product, previews.preview(product, edit, PREVIEWED))
    context = frame(product_of(request, product), pages.texts(request))
    return pages.page(request, "product_preview.html", preview=preview, previewed=PREVIEWED, **context)
