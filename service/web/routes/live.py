"""The live page, and the alarms that every page shows."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.access.restrictions import require_product
from service.api.deps import AlarmsDep, PrincipalDep, ProductsDep
from service.api.http.access import requires
from service.schemas.common import Label
from service.web.alarms import AlarmLine, digest_of, lines_of
from service.web.page import PagesDep
from service.web.score_scale import FAIL_PLACE
from service.web.start_page import LIVE

router = APIRouter(include_in_schema=False)


@router.get(LIVE)
@requires("inspect", filters=True)
def live_page(
    request: Request,
    pages: PagesDep,
    products: ProductsDep,
    principal: PrincipalDep,
    product: Annotated[Label | None, Query()] = None,
    station: Annotated[Label | None, Query()] = None,
) -> Response:
    """Return the live page. Browsers reach it at `/`, too: see `StartPage`."""
    if product is not None:
        require_product(principal, product)
    names = [one.name for one in products.list_products()]
    permitted = [name for name in names if principal.products is None or name in principal.products]
    return pages.page(
        request,
        "live.html",
        product=product,
        station=station,
        products=sorted({*permitted, *([] if product is None else [product])}),
        stations=sorted(principal.stations or ()),
        fail_place=FAIL_PLACE,
    )


@router.get("/alarms")
@requires("inspect", filters=True)
def alarms_part(
    request: Request,
    pages: PagesDep,
    alarms: AlarmsDep,
    principal: PrincipalDep,
    seen: Annotated[str, Query(max_length=64)] = "",
    page: Annotated[str, Query(max_length=2000)] = "",
) -> Response:
    """Return the alarms; 204 if they are those that the page shows already, so that nothing is read aloud again.

    An alarm has no link to the page that shows it.
    """
    lines: list[AlarmLine] = lines_of(alarms.current(principal), pages.texts(request), principal)
    digest = digest_of(lines)
    if seen == digest:
        return Response(status_code=204)
    return pages.page(request, "alarms_part.html", lines=lines, digest=digest, shown_on=page)
