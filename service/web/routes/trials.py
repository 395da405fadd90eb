"""Try it: choose images, and see decision and heatmap without a stored record."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.access.restrictions import require_product
from service.api.deps import PrincipalDep, ProductsDep
from service.api.http.access import requires
from service.schemas.common import Name
from service.web.page import PagesDep

router = APIRouter(include_in_schema=False)


@router.get("/try")
@requires("engineer", filters=True)
def try_page(
    request: Request,
    pages: PagesDep,
    products: ProductsDep,
    principal: PrincipalDep,
    product: Annotated[Name | None, Query()] = None,
) -> Response:
    """Return the page on which images are tried."""
    if product is not None:
        require_product(principal, product)
    served = [
        one.name
        for one in products.list_products()
        if one.active is not None and (principal.products is None or one.name in principal.products)
    ]
    return pages.page(request, "try.html", products=served, product=product if product in served else None)
