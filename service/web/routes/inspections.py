"""Search of inspections, and one inspection with everything that it is based on."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.deps import ClientDep, InspectionsDep, PrincipalDep, ProductsDep, ReviewsDep, SummariesDep
from service.api.http.access import requires
from service.api.http.clients import wait_for_disconnect
from service.api.mapping import to_inspection
from service.api.parameters import InspectionPath, inspection_filter
from service.api.review_mapping import to_history
from service.errors import InvalidRequest
from service.serving.errors import RecordsBusy
from service.serving.export_formats import available_formats
from service.serving.summaries import DEFAULT_SPAN, SummaryOptions
from service.store.ids import parse_id
from service.store.inspection_filter import InspectionFilter
from service.web.inspection_search import PAGE, SearchForm, read_inspection_search
from service.web.page import PagesDep
from service.web.problem_texts import describe
from service.web.score_scale import describe_p_value, score_scale

log = structlog.get_logger(__name__)
router = APIRouter(include_in_schema=False)

LIST = "/inspections"
Fields = Annotated[SearchForm, Query()]


@router.get(LIST)
@requires("engineer", filters=True)
def inspections_page(
    request: Request,
    form: Fields,
    pages: PagesDep,
    inspections: InspectionsDep,
    products: ProductsDep,
    reviews: ReviewsDep,
    principal: PrincipalDep,
) -> Response:
    """Return a page of the inspections that a search finds, newest first."""
    search = read_inspection_search(form, pages.zone)
    context: dict[str, Any] = {
        "search": search,
        "products": [
            one.name for one in products.list_products() if principal.products is None or one.name in principal.products
        ],
        "list_path": LIST,
        "formats": available_formats(),
    }
    if search.query is None:
        return pages.page(request, "inspections.html", status=422, items=None, newer=None, older=None, **context)
    which = inspection_filter(search.query, principal)
    page = inspections.search_newer(which, parse_id(form.after), PAGE) if form.after else None
    is_newest = not form.before
    if page is not None:
        is_newest = len(page.items) < PAGE
    if page is None or is_newest:
        page = inspections.search(which, parse_id(form.before) if page is None and form.before else None, PAGE)
    labels = reviews.labels([record.id for record in page.items])
    items = [to_inspection(record, found.label if (found := labels.get(record.id)) else None) for record in page.items]
    return pages.page(
        request,
        "inspections.html",
        items=items,
        newer=search.url(LIST, after=items[0].id) if items and not is_newest else None,
        newest=None if is_newest else search.url(LIST),
        older=None if page.next_cursor is None else search.url(LIST, before=page.next_cursor),
        removed_until=None if page.next_cursor else inspections.records_removed_until(which),
        **context,
    )


@router.get(f"{LIST}:counts")
@requires("engineer", filters=True)
async def counts_part(
    request: Request,
    form: Fields,
    pages: PagesDep,
    summaries: SummariesDep,
    client: ClientDep,
    principal: PrincipalDep,
) -> Response:
    """Return the number of inspections by decision that a search finds."""
    search = read_inspection_search(form, pages.zone)
    if search.query is None:
        return Response(status_code=204)
    which = inspection_filter(search.query, principal)
    counts: dict[str, int] | None = None
    removed_until: datetime | None = None
    problem: str | None = None
    try:
        disconnected = partial(wait_for_disconnect, request.receive)
        found = await summaries.summarise(which, SummaryOptions("product", pages.zone, ()), client, disconnected)
        removed_until = found.records_removed_until
        counts = dict.fromkeys(("pass", "review", "fail", "invalid"), 0)
        for group in found.groups:
            for name, number in group.counts.items():
                counts[name] += number
    except RecordsBusy:
        log.debug("counts of inspections postponed")  # another page of this person is counting; the part asks again
    except InvalidRequest as error:  # the period is too long
        problem = describe(error, pages.texts(request))
    return pages.page(
        request,
        "inspections_counts.html",
        counts=counts,
        removed_until=removed_until,
        retry=search.url(f"{LIST}:counts"),
        problem=problem,
        default_days=DEFAULT_SPAN.days if which.since is None else None,
    )


@router.get(f"{LIST}/{{inspection_id:identifier}}")
@requires("inspect")
def inspection_page(
    request: Request,
    inspection_id: InspectionPath,
    pages: PagesDep,
    inspections: InspectionsDep,
    reviews: ReviewsDep,
    principal: PrincipalDep,
) -> Response:
    """Return one inspection: image, decision, and everything that a replay needs."""
    record = inspections.get(inspection_id)
    history = to_history(record.id, reviews.history(record.id))
    texts = pages.texts(request)
    scale = in_words = None
    if record.score is not None:
        scale = score_scale(record.score, record.review_threshold, record.fail_threshold, record.heatmap_low)
    if record.p_value is not None:
        in_words = describe_p_value(record.p_value, record.calibration_count, texts)
    which = InspectionFilter(record.product, permitted_stations=principal.stations)
    return pages.page(
        request,
        "inspection.html",
        inspection=to_inspection(record, history.label),
        record=record,
        history=history,
        scale=scale,
        in_words=in_words,
        neighbours=inspections.neighbours(record, which),
    )


@router.get(f"{LIST}/{{inspection_id}}/reviews")
@requires("inspect")
def reviews_part(request: Request, inspection_id: InspectionPath, pages: PagesDep, reviews: ReviewsDep) -> Response:
    """Return the reviews of an inspection."""
    found = reviews.history(inspection_id)
    return pages.page(request, "inspection_reviews.html", history=to_history(inspection_id, found))
