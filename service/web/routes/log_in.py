"""Log-in and log-out in a browser, and the files of the pages."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from service.access.errors import LoginFailed, TooManyLogins
from service.access.principal import ANONYMOUS
from service.api.deps import AccessDep, ActorDep, ClientDep, PrincipalDep, SenderDep
from service.api.http.access import identity_of, is_secure, requires, session_cookie
from service.api.http.body_limit import CREDENTIALS, limit_body
from service.api.http.errors import RouteNotFound
from service.web.page import PagesDep
from service.web.problem_pages import LOGIN, safe_target
from service.web.problem_texts import describe

router = APIRouter(include_in_schema=False)

_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


@router.get("/web/assets/{digest}/{name:path}")
@requires(None)
async def asset(request: Request, digest: str, name: str, pages: PagesDep) -> Response:
    """Return a script, a style sheet or an icon."""
    found = pages.assets.find(digest, name)
    if found is None:
        raise RouteNotFound(request.url.path)
    return found.response(request.headers, _FOREVER)


@router.get(LOGIN)
@requires(None)
async def log_in_page(
    request: Request,
    pages: PagesDep,
    access: AccessDep,
    next: Annotated[str, Query(max_length=2000)] = "/",  # noqa: A002
) -> Response:
    """Return the form to log in."""
    if not access.is_required:
        return RedirectResponse(safe_target(next), 303)
    return pages.page(request, "login.html", next=safe_target(next), name="", problem=None)


@router.post(LOGIN)
@limit_body(CREDENTIALS)
@requires(None)
async def log_in(
    request: Request,
    pages: PagesDep,
    access: AccessDep,
    client: ClientDep,
    sender: SenderDep,
    name: Annotated[str, Form(max_length=200)] = "",
    password: Annotated[str, Form(max_length=1000)] = "",
    next: Annotated[str, Form(max_length=2000)] = "/",  # noqa: A002 - the name of the field
) -> Response:
    """Start a session and open the page that was requested; show the form again if name or password is wrong."""
    try:
        session = await access.log_in(name, password, client, sender)
    except (LoginFailed, TooManyLogins) as error:
        headers = {} if error.retry_after_s is None else {"Retry-After": str(int(error.retry_after_s) + 1)}
        problem = describe(error, pages.texts(request))
        shown = pages.page(
            request, "login.html", status=error.status, next=safe_target(next), name=name, problem=problem
        )
        shown.headers.update(headers)
        return shown
    response = RedirectResponse(safe_target(next), 303)
    response.set_cookie(
        session_cookie(request.scope), session.token, secure=is_secure(request.scope), httponly=True, samesite="strict"
    )
    return response


@router.get("/account")
@requires("any")
async def account(request: Request, pages: PagesDep, principal: PrincipalDep) -> Response:
    """Return the page of the own account: change the password, log out everywhere."""
    assert principal is not ANONYMOUS
    return pages.page(request, "account.html", has_session=identity_of(request) is not None)


@router.post("/logout")
@requires("any")
async def log_out(request: Request, access: AccessDep, actor: ActorDep) -> Response:
    """End the session and show the form to log in."""
    await access.log_out(identity_of(request), actor, everywhere=False)
    response = Response(status_code=204, headers={"HX-Redirect": LOGIN})
    response.delete_cookie(
        session_cookie(request.scope), secure=is_secure(request.scope), httponly=True, samesite="strict"
    )
    return response
