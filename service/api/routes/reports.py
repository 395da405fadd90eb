"""Shift reports of products, as HTML, CSV or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.access.principal import Principal
from service.api.deps import ClientDep, PrincipalDep, ReportsDep, ReviewsDep
from service.api.http.access import requires
from service.api.http.clients import wait_for_disconnect
from service.api.http.errors import NotAcceptable
from service.api.http.head import headers_only, is_head
from service.api.http.negotiation import negotiate
from service.api.http.problems import problem_responses
from service.api.parameters import ProductPath
from service.api.responses import BINARY
from service.deployment.configuration import drift_limits
from service.deployment.errors import UnknownProduct
from service.errors import InvalidRequest
from service.languages import choose_language
from service.reports.html import content_security_policy
from service.reports.render import REPORT_MEDIA_TYPES, render
from service.schemas.report import ReportFormat, ReportLanguage, ReportQuery, ShiftReport
from service.serving.errors import RecordsBusy
from service.serving.periods import parse_zone
from service.serving.reports import ReportRequest
from service.settings import Settings
from service.store.errors import StoreUnavailable
from service.store.inspection_filter import InspectionFilter

router = APIRouter(prefix="/v1/products", tags=["inspections"])

# JSON first: it is what a client without preference gets.
_FORMATS: Mapping[str, ReportFormat] = {"application/json": "json", "text/html": "html", "text/csv": "csv"}
HTML_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": f"{content_security_policy()}; frame-ancestors 'none'",
}
"""Headers of the HTML page."""


@router.get(
    "/{product}/report",
    operation_id="report_shift",
    summary="Report on a shift",
    response_model=ShiftReport,
    responses={
        200: {"content": {"text/html": {"schema": {"type": "string"}}, "text/csv": {"schema": BINARY}}},
        **problem_responses(UnknownProduct, NotAcceptable, InvalidRequest, RecordsBusy, StoreUnavailable),
    },
)
@requires("review")
async def report_shift(
    request: Request,
    product: ProductPath,
    query: Annotated[ReportQuery, Query()],
    reports: ReportsDep,
    reviews: ReviewsDep,
    client: ClientDep,
    principal: PrincipalDep,
) -> Response:
    """Return what happened to a product in a period: counts, yields, scores, reviews, changes and drift.

    Without `until` the period ends now, without `since` it has 24 hours. It has at most 400 days. The format is that of
    the parameter `format`, otherwise the one that `Accept` prefers. The HTML page is one file without scripts, for
    screen and paper; `language` or `Accept-Language` choose English or German. A text in the CSV file that a
    spreadsheet could read as a formula gets a leading apostrophe. A key that is restricted to stations gets a report on
    these stations.
    """
    kind = query.format or _FORMATS[negotiate(request.headers.get("accept"), tuple(_FORMATS))]
    accepted = request.headers.get("accept-language", "")
    language: ReportLanguage = "de" if choose_language(query.language, accepted) == "de" else "en"
    settings: Settings = request.app.state.settings
    asked = report_request(product, query, principal, settings)
    await run_in_threadpool(reviews.evaluation.require_known, product)
    headers = {
        "Vary": "Accept, Accept-Language",
        "Content-Disposition": f'{"inline" if kind == "html" else "attachment"}; filename="report.{kind}"',
        **(HTML_HEADERS if kind == "html" else {}),
    }
    if is_head(request.scope):
        return headers_only(headers, REPORT_MEDIA_TYPES[kind])
    report = await reports.make(asked, client, partial(wait_for_disconnect, request.receive))
    body = await run_in_threadpool(partial(render, report, kind, language))
    return Response(body, headers=headers, media_type=REPORT_MEDIA_TYPES[kind])


def report_request(product: str, query: ReportQuery, principal: Principal, settings: Settings) -> ReportRequest:
    """Return what a report is about, limited to what the principal may use.

    Raises:
        InvalidRequest: There is no such time zone.
    """
    which = InspectionFilter(
        product=product,
        since=query.since,
        until=query.until,
        station=query.station,
        permitted_products=principal.products,
        permitted_stations=principal.stations,
    )
    return ReportRequest(which, parse_zone(query.time_zone or settings.time_zone), drift_limits(settings))
