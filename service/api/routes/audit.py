"""The audit log: who changed what, when and from where."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.access.errors import NotPermitted
from service.api.deps import AuditDep, PrincipalDep
from service.api.http.access import requires
from service.api.http.errors import NotAcceptable
from service.api.http.head import headers_only, is_head
from service.api.http.negotiation import negotiate
from service.api.http.problems import problem_responses
from service.api.http.streamed_export import ExportResponse
from service.api.responses import binary_response
from service.errors import InvalidRequest
from service.schemas.audit import AuditEntryRecord, AuditHeadRecord, AuditPage, AuditVerification, BrokenAuditEntry
from service.schemas.common import Label, UtcDatetime
from service.serving.audit_export import ExportFormat, export_lines
from service.serving.errors import RecordsBusy
from service.store.audit import AuditAction, AuditFilter
from service.store.errors import StoreUnavailable

router = APIRouter(prefix="/v1", tags=["audit"])

JSON = "application/json"
CSV = "text/csv"
JSON_LINES = "application/jsonl"
ActorQuery = Annotated[Label | None, Query(description="Only changes by the author with this name or id.")]
ActionQuery = Annotated[AuditAction | None, Query(description="Only changes of this kind.")]
ProductQuery = Annotated[Label | None, Query(description="Only changes of this product.")]
SinceQuery = Annotated[UtcDatetime | None, Query(description="Only changes from this time on, with time zone.")]
UntilQuery = Annotated[UtcDatetime | None, Query(description="Only changes before this time, with time zone.")]
_RESPONSES: dict[int | str, dict[str, Any]] = {200: {"content": {CSV: {"schema": {"type": "string"}}}}}


@router.get(
    "/audit",
    operation_id="list_audit",
    summary="List the audit log",
    response_model=AuditPage,
    responses={**_RESPONSES, **problem_responses(InvalidRequest, NotAcceptable, StoreUnavailable)},
)
@requires("admin", filters=True)
def list_audit(
    request: Request,
    audit: AuditDep,
    principal: PrincipalDep,
    actor: ActorQuery = None,
    action: ActionQuery = None,
    product: ProductQuery = None,
    since: SinceQuery = None,
    until: UntilQuery = None,
    cursor: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`next_cursor` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of entries on the page.")] = 100,
) -> Response:
    """Return the changes of recipes, bundles, retention, keys and accounts page by page, newest first.

    A key that is restricted to products sees the changes of these products only.

    With `Accept: text/csv` the page is a CSV file; texts that a spreadsheet would run as a formula begin with an
    apostrophe, and the header `Link` refers to the next page.
    """
    media_type = negotiate(request.headers.get("accept"), (JSON, CSV))
    if principal.stations is not None:  # a change applies to all stations
        raise NotPermitted.everything()
    which = AuditFilter(actor, action, product, since, until, permitted_products=principal.products)
    page = audit.search(which, cursor, limit)
    headers = {"Vary": "Accept"}
    if page.next_cursor is not None:
        next_page = request.url.include_query_params(cursor=page.next_cursor)
        headers["Link"] = f'<{next_page.path}?{next_page.query}>; rel="next"'
    if media_type == CSV:
        return Response("".join(export_lines(page.items, "csv")), headers=headers, media_type=CSV)
    items = [AuditEntryRecord.model_validate(record.values()) for record in page.items]
    body = AuditPage(items=items, next_cursor=page.next_cursor).model_dump_json()
    return Response(body, headers=headers, media_type=JSON)


@router.get(
    "/audit:head",
    operation_id="get_audit_head",
    summary="Get the newest hash of the audit log",
    responses=problem_responses(StoreUnavailable),
)
@requires("admin")
def read_audit_head(audit: AuditDep) -> AuditHeadRecord:
    """Return number and hash of the newest entry.

    Keep it outside of the service: with it, `plumbline audit verify --expect-head` notices if the end of the audit log
    was removed, which the chain of hashes alone does not show.
    """
    head = audit.head()
    return AuditHeadRecord(id=head.id, hash=head.hash)


@router.get(
    "/audit:verify",
    operation_id="verify_audit",
    summary="Verify the audit log",
    responses=problem_responses(RecordsBusy, StoreUnavailable),
)
@requires("admin")
def verify_audit(audit: AuditDep) -> AuditVerification:
    """Verify that no entry was changed, removed or inserted: each entry contains the hash of the one before.

    It reads the whole log, at low priority and one request at a time. If the newest entries were removed, this is not
    noticed: compare `head` with an earlier one, or use `plumbline audit verify --expect-head`.
    """
    report = audit.verify()
    broken = report.broken
    return AuditVerification(
        intact=broken is None,
        entries=report.entries,
        head=None if report.head is None else report.head.hash,
        broken=None if broken is None else BrokenAuditEntry(id=broken.id, reason=broken.reason),
    )


@router.get(
    "/audit:export",
    operation_id="export_audit",
    summary="Export the audit log",
    response_class=Response,
    responses={
        200: binary_response("The entries, oldest first, as JSON Lines or as CSV.", (JSON_LINES, CSV)),
        **problem_responses(InvalidRequest, RecordsBusy, StoreUnavailable),
    },
)
@requires("admin", filters=True)
def export_audit(
    request: Request,
    audit: AuditDep,
    principal: PrincipalDep,
    format: Annotated[  # noqa: A002 - the public name of the parameter
        ExportFormat,
        Query(description="`jsonl`: complete, for `plumbline audit verify --against`. `csv`: for spreadsheets."),
    ] = "jsonl",
    actor: ActorQuery = None,
    action: ActionQuery = None,
    product: ProductQuery = None,
    since: SinceQuery = None,
    until: UntilQuery = None,
) -> Response:
    """Return entries as a file, oldest first. One export or verification runs at a time."""
    if principal.stations is not None:  # a change applies to all stations
        raise NotPermitted.everything()
    which = AuditFilter(actor, action, product, since, until, permitted_products=principal.products)
    media_type = CSV if format == "csv" else JSON_LINES
    headers = {"Content-Disposition": f'attachment; filename="audit.{format}"'}
    if is_head(request.scope):
        return headers_only(headers, media_type)
    with ExitStack() as reserved:
        reserved.enter_context(audit.reading_everything())
        close = reserved.pop_all().close
    return ExportResponse(audit.export(which, format), close, headers, media_type)
