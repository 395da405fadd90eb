"""The page on which people review inspections, one card at a time."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.access.restrictions import require_product
from service.api.deps import ActorDep, PrincipalDep, ProductsDep, ReviewsDep
from service.api.http.access import requires
from service.schemas.common import Label
from service.web.page import PagesDep
from service.web.score_scale import FAIL_PLACE

router = APIRouter(include_in_schema=False)


@router.get("/review")
@requires("review", filters=True)
def review(
    request: Request,
    pages: PagesDep,
    products: ProductsDep,
    reviews: ReviewsDep,
    principal: PrincipalDep,
    actor: ActorDep,
    product: Annotated[Label | None, Query()] = None,
) -> Response:
    """Return the page: the queue of a product, or the choice of a product if there are several."""
    names = [state.name for state in products.list_products()]
    if principal.products is not None:
        names = [name for name in names if name in principal.products]
    if product is None and len(names) == 1:
        (product,) = names
    if product is None:
        return pages.page(request, "review_products.html", products=names)
    require_product(principal, product)
    kinds = [kind for kind, _ in reviews.kinds(product, principal.stations)]
    return pages.page(
        request,
        "review.html",
        product=product,
        products=names,
        kinds=kinds,
        reviewer=actor.name,
        fail_place=FAIL_PLACE,
    )
