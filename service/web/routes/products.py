"""The list of products."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.access.principal import Principal
from service.api.deps import ClientDep, PrincipalDep, ProductsDep, SummariesDep
from service.api.http.access import requires
from service.api.http.clients import wait_for_disconnect
from service.api.mapping import to_product
from service.serving.errors import RecordsBusy
from service.serving.products import ProductService
from service.serving.summaries import SummaryOptions
from service.store.inspection_filter import InspectionFilter
from service.web.page import PagesDep
from service.web.product_frame import guarantee_of

log = structlog.get_logger(__name__)
router = APIRouter(include_in_schema=False)

_PERIOD = timedelta(hours=24)


@router.get("/products")
@requires("engineer", filters=True)
async def products_page(request: Request, pages: PagesDep, products: ProductsDep, principal: PrincipalDep) -> Response:
    """Return the list of products; the counts follow as a part."""
    return pages.page(request, "products.html", counts=None, delay="0s", **_listed(products, principal))


@router.get("/products:table")
@requires("engineer", filters=True)
async def table_part(
    request: Request,
    pages: PagesDep,
    products: ProductsDep,
    summaries: SummariesDep,
    client: ClientDep,
    principal: PrincipalDep,
) -> Response:
    """Return the list with the counts of the last 24 hours."""
    which = InspectionFilter(
        since=datetime.now(UTC) - _PERIOD,
        permitted_products=principal.products,
        permitted_stations=principal.stations,
    )
    counts: dict[str | None, Counter[str]] | None = None
    try:
        disconnected = partial(wait_for_disconnect, request.receive)
        options = SummaryOptions("product", pages.zone, ())
        found = await summaries.summarise(which, options, client, disconnected)
        counts = {group.name: group.counts for group in found.groups}
    except RecordsBusy:
        log.debug("counts of products postponed")  # another page of this person is counting; the part asks again
    return pages.page(request, "products_table.html", counts=counts, delay="3s", **_listed(products, principal))


def _listed(products: ProductService, principal: Principal) -> dict[str, Any]:
    permitted = principal.products
    found = [to_product(state) for state in products.list_products() if permitted is None or state.name in permitted]
    return {"products": found, "guarantees": {product.product: guarantee_of(product) for product in found}}
