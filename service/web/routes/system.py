"""The state of the service, and its administration: audit log, API keys and accounts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.access.principal import ROLE_SCOPES, SCOPES, Principal
from service.api.deps import AccessDep, AuditDep, OutboxDep, PrincipalDep, ProductsDep, SystemDep
from service.api.http.access import requires
from service.api.outbox_mapping import to_dead_letter
from service.api.system_mapping import read_system
from service.integrations.outbox import OutboxService
from service.languages import mark as _
from service.serving.system import SystemService
from service.store.audit import AuditAction, AuditFilter
from service.store.errors import StoreUnavailable
from service.store.outbox import DeadLetterFilter
from service.web.audit_search import AuditForm, read_audit_search
from service.web.page import PagesDep

router = APIRouter(include_in_schema=False)

SYSTEM = "/system"
AUDIT = f"{SYSTEM}/audit"
AUDIT_PAGE = 50
_DEAD_LETTERS = 20
_KEY_DAYS = (30, 90, 365)


@router.get(SYSTEM)
@requires("engineer")
def system_page(
    request: Request, pages: PagesDep, system: SystemDep, outbox: OutboxDep, principal: PrincipalDep
) -> Response:
    """Return the state of the service, which refreshes itself."""
    return pages.page(request, "system.html", **_state(system, outbox), tabs=tabs_for(principal))


@router.get(f"{SYSTEM}:state")
@requires("engineer")
def state_part(request: Request, pages: PagesDep, system: SystemDep, outbox: OutboxDep) -> Response:
    """Return the part of the page that changes."""
    return pages.page(request, "system_state.html", **_state(system, outbox))


@router.get(AUDIT)
@requires("admin", filters=True)
def audit_page(
    request: Request,
    form: Annotated[AuditForm, Query()],
    pages: PagesDep,
    audit: AuditDep,
    products: ProductsDep,
    principal: PrincipalDep,
) -> Response:
    """Return a page of the audit log."""
    search = read_audit_search(form, pages.zone)
    context: dict[str, Any] = {
        "search": search,
        "actions": get_args(AuditAction),
        "products": [one.name for one in products.list_products()],
        "tabs": tabs_for(principal),
        "list_path": AUDIT,
    }
    if search.query is None:
        return pages.page(request, "system_audit.html", status=422, items=None, older=None, newest=None, **context)
    which = AuditFilter(**search.query.model_dump(), permitted_products=principal.products)
    page = audit.search(which, form.cursor, AUDIT_PAGE)
    return pages.page(
        request,
        "system_audit.html",
        items=page.items,
        older=None if page.next_cursor is None else search.url(AUDIT, cursor=page.next_cursor),
        newest=None if form.cursor is None else search.url(AUDIT),
        **context,
    )


@router.get(f"{SYSTEM}/keys")
@requires("admin")
def keys_page(
    request: Request, pages: PagesDep, access: AccessDep, products: ProductsDep, principal: PrincipalDep
) -> Response:
    """Return the API keys, and the form that creates one."""
    now = datetime.now(UTC)
    return pages.page(
        request,
        "system_keys.html",
        keys=access.list_keys(),
        now=now,
        scopes=SCOPES,
        products=[one.name for one in products.list_products()],
        expiries=[(days, (now + timedelta(days=days)).isoformat(timespec="seconds")) for days in _KEY_DAYS],
        tabs=tabs_for(principal),
    )


@router.get(f"{SYSTEM}/keys:table")
@requires("admin")
def keys_part(request: Request, pages: PagesDep, access: AccessDep) -> Response:
    """Return the table of API keys."""
    return pages.page(request, "system_keys_table.html", keys=access.list_keys(), now=datetime.now(UTC))


@router.get(f"{SYSTEM}/accounts")
@requires("admin")
def accounts_page(request: Request, pages: PagesDep, access: AccessDep, principal: PrincipalDep) -> Response:
    """Return the accounts, and the form that creates one."""
    return pages.page(
        request,
        "system_accounts.html",
        accounts=access.list_accounts(),
        roles=tuple(ROLE_SCOPES),
        tabs=tabs_for(principal),
    )


@router.get(f"{SYSTEM}/accounts:table")
@requires("admin")
def accounts_part(request: Request, pages: PagesDep, access: AccessDep) -> Response:
    """Return the table of accounts."""
    return pages.page(request, "system_accounts_table.html", accounts=access.list_accounts(), roles=tuple(ROLE_SCOPES))


def tabs_for(principal: Principal) -> list[tuple[str, str]]:
    """Return path and title of the pages below System that a principal may open."""
    tabs = [(SYSTEM, _("State"))]
    if "admin" in principal.scopes:
        tabs += [(AUDIT, _("Audit log")), (f"{SYSTEM}/keys", _("API keys")), (f"{SYSTEM}/accounts", _("Accounts"))]
    return tabs


def _state(system: SystemService, outbox: OutboxService) -> dict[str, Any]:
    try:
        letters = outbox.dead_letters(DeadLetterFilter(None, None), None, _DEAD_LETTERS).items
    except StoreUnavailable:  # the state says that the sinks are not known
        letters = ()
    return {
        "state": read_system(system, outbox),
        "letters": [to_dead_letter(letter) for letter in letters],
        "now": datetime.now(UTC),
    }
