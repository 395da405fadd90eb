"""The shift report of a product: choice of the period, key figures, and the report as a file."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, get_args
from urllib.parse import urlencode

import structlog
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.deps import ClientDep, PrincipalDep, ProductsDep, ReportsDep, ShiftsDep
from service.api.http.access import requires
from service.api.http.clients import wait_for_disconnect
from service.api.parameters import ProductPath
from service.api.routes.reports import report_request
from service.errors import InvalidRequest
from service.schemas.report import ReportFormat, ShiftReport
from service.serving.errors import RecordsBusy
from service.serving.periods import PeriodName
from service.web.page import PagesDep
from service.web.preferences import preferences_of
from service.web.problem_texts import describe
from service.web.product_frame import frame, product_of
from service.web.report_search import ReportForm, read_choice

log = structlog.get_logger(__name__)
router = APIRouter(include_in_schema=False)

Fields = Annotated[ReportForm, Query()]


@router.get("/products/{product}/report")
@requires("review")
def report_page(
    request: Request,
    product: ProductPath,
    form: Fields,
    pages: PagesDep,
    products: ProductsDep,
    shifts: ShiftsDep,
    principal: PrincipalDep,
) -> Response:
    """Return the page on which a period is chosen. The figures follow as a part, because they can take seconds."""
    choice = read_choice(form, pages.zone, shifts.period)
    names = [one.name for one in products.list_products() if one.name != product]
    return pages.page(
        request,
        "product_report.html",
        status=422 if choice.query is None else 200,
        choice=choice,
        period_names=get_args(PeriodName),
        others=[name for name in names if principal.products is None or name in principal.products],
        stations=sorted(principal.stations or ()),
        **frame(product_of(request, product), pages.texts(request)),
    )


@router.get("/products/{product}/report/figures")
@requires("review")
async def figures_part(
    request: Request,
    product: ProductPath,
    form: Fields,
    pages: PagesDep,
    reports: ReportsDep,
    shifts: ShiftsDep,
    client: ClientDep,
    principal: PrincipalDep,
) -> Response:
    """Return the key figures of a report, and links to the same report as a file."""
    choice = read_choice(form, pages.zone, shifts.period)
    if choice.query is None:
        return Response(status_code=204)
    report: ShiftReport | None = None
    problem: str | None = None
    try:
        asked = report_request(product, choice.query, principal, request.app.state.settings)
        made = await reports.make(asked, client, partial(wait_for_disconnect, request.receive))
        report = made.content
    except RecordsBusy:
        log.debug("figures of a report postponed")  # another page of this person is counting; the part asks again
    except InvalidRequest as error:  # the period is empty or too long
        problem = describe(error, pages.texts(request))
    context: dict[str, Any] = {
        "choice": choice,
        "page_path": f"/products/{product}/report",
        "report": report,
        "problem": problem,
        "links": {} if report is None else _links(report, preferences_of(request).language),
    }
    return pages.page(request, "product_report_figures.html", **context)


def _links(report: ShiftReport, language: str) -> dict[ReportFormat, str]:
    """Return the URL of the same report in each format."""
    query = {"since": report.since.isoformat(), "until": report.until.isoformat()}
    if report.station is not None:
        query["station"] = report.station
    path = f"/v1/products/{report.product}/report"
    formats: tuple[ReportFormat, ...] = get_args(ReportFormat)
    return {name: f"{path}?{urlencode({**query, 'format': name, 'language': language})}" for name in formats}
