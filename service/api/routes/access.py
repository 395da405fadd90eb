"""API keys, log-in and log-out, and the own password."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from service.access.cache import Identity
from service.access.errors import (
    AccountRefused,
    InvalidGrant,
    KeyExists,
    LoginFailed,
    NoSession,
    TooManyLogins,
    UnknownKey,
    WrongPassword,
)
from service.access.keys import Grant
from service.access.principal import Principal
from service.api.deps import AccessDep, ActorDep, ClientDep, PrincipalDep, ProductsDep, SenderDep
from service.api.http.access import identity_of, is_secure, requires, session_cookie
from service.api.http.body_limit import CREDENTIALS, limit_body
from service.api.http.problems import problem_responses
from service.errors import BodyTooLarge, InvalidRequest
from service.schemas.access import (
    ApiKey,
    ApiKeyList,
    ApiKeyRequest,
    CreatedApiKey,
    Identification,
    LogIn,
    OwnPasswordChange,
    ScopeName,
)
from service.schemas.common import Label
from service.store.access_records import KeyRecord
from service.store.errors import StoreUnavailable

router = APIRouter(prefix="/v1/access", tags=["access"])

KeyPath = Annotated[
    Label, Path(description="Id of the key, its part between the underscores; or its name if no other key has it.")
]
# Secrets must not stay in the cache of a browser or a proxy.
_NOT_STORED = {"Cache-Control": "no-store"}
_COOKIE = {"Set-Cookie": {"description": "The session cookie.", "schema": {"type": "string"}}}


@router.post(
    "/keys",
    operation_id="create_key",
    summary="Create an API key",
    status_code=201,
    response_model=CreatedApiKey,
    responses=problem_responses(InvalidRequest, BodyTooLarge, InvalidGrant, KeyExists, StoreUnavailable),
)
@limit_body(CREDENTIALS)
@requires("admin")
def create_key(wanted: ApiKeyRequest, access: AccessDep, products: ProductsDep, actor: ActorDep) -> Response:
    """Create a key and return it. The service stores its hash only, so the key cannot be read again.

    As soon as there is a key, every request needs credentials.
    """
    grant = Grant(wanted.name, wanted.scopes, wanted.products, wanted.stations, wanted.expires_at)
    created = access.create_key(grant, actor)
    unknown = sorted(set(wanted.products or ()) - {state.name for state in products.list_products()})
    warnings = [
        f"The model repository has no product {name!r}. Check the name, or add the product." for name in unknown
    ]
    body = CreatedApiKey(key=created.key, warnings=warnings, **to_api_key(created.record).model_dump())
    return Response(body.model_dump_json(), 201, _NOT_STORED, "application/json")


@router.get("/keys", operation_id="list_keys", summary="List API keys", responses=problem_responses(StoreUnavailable))
@requires("admin")
def list_keys(access: AccessDep) -> ApiKeyList:
    """Return all keys without their secrets, newest first, revoked and expired ones included."""
    return ApiKeyList(items=[to_api_key(record) for record in access.list_keys()])


@router.post(
    "/keys/{key_id}:revoke",
    operation_id="revoke_key",
    summary="Revoke an API key",
    responses=problem_responses(InvalidRequest, UnknownKey, StoreUnavailable),
)
@requires("admin")
def revoke_key(key_id: KeyPath, access: AccessDep, actor: ActorDep) -> ApiKey:
    """Revoke a key. It is refused from the next request on, by other processes after a second. It stays in the list.

    Revoking a key again changes nothing. Revoking the last key does not open the service.
    """
    return to_api_key(access.revoke_key(key_id, actor))


@router.post(
    "/login",
    operation_id="log_in",
    summary="Log in",
    response_model=Identification,
    responses={
        200: {"headers": _COOKIE},
        **problem_responses(InvalidRequest, BodyTooLarge, LoginFailed, TooManyLogins, StoreUnavailable),
    },
)
@limit_body(CREDENTIALS)
@requires(None)
async def log_in(request: Request, given: LogIn, access: AccessDep, client: ClientDep, sender: SenderDep) -> Response:
    """Start a session of an account. The response sets the session cookie and contains the CSRF token of the session.

    `plumbline account create` and POST /v1/access/accounts create an account. The time is the same for a wrong password
    and an unknown name.
    """
    session = await access.log_in(given.name, given.password.get_secret_value(), client, sender)
    response = _identification(session.identity.principal, session.identity)
    response.set_cookie(
        session_cookie(request.scope), session.token, secure=is_secure(request.scope), httponly=True, samesite="strict"
    )
    return response


@router.post(
    "/logout",
    operation_id="log_out",
    summary="Log out",
    status_code=204,
    responses={204: {"headers": _COOKIE}, **problem_responses(NoSession, StoreUnavailable)},
)
@requires("any")
async def log_out(request: Request, access: AccessDep, actor: ActorDep) -> Response:
    """End the session of the request."""
    await access.log_out(identity_of(request), actor, everywhere=False)
    return _without_cookie(request)


@router.post(
    "/logout-everywhere",
    operation_id="log_out_everywhere",
    summary="Log out everywhere",
    status_code=204,
    responses={204: {"headers": _COOKIE}, **problem_responses(NoSession, StoreUnavailable)},
)
@requires("any")
async def log_out_everywhere(request: Request, access: AccessDep, actor: ActorDep) -> Response:
    """End all sessions of the account, on every device."""
    await access.log_out(identity_of(request), actor, everywhere=True)
    return _without_cookie(request)


@router.get(
    "/me",
    operation_id="who_am_i",
    summary="Show who sends the request",
    response_model=Identification,
    responses=problem_responses(StoreUnavailable),
)
@requires("any")
async def who_am_i(request: Request, principal: PrincipalDep) -> Response:
    """Return the key or the account of the request, and what it may do."""
    return _identification(principal, identity_of(request))


@router.post(
    "/me:password",
    operation_id="change_own_password",
    summary="Change the own password",
    status_code=204,
    responses=problem_responses(
        InvalidRequest, BodyTooLarge, NoSession, WrongPassword, AccountRefused, TooManyLogins, StoreUnavailable
    ),
)
@limit_body(CREDENTIALS)
@requires("any")
async def change_own_password(
    request: Request, change: OwnPasswordChange, access: AccessDep, client: ClientDep, actor: ActorDep
) -> Response:
    """Set a new password for the account of the session. All its other sessions end.

    Attempts with a wrong current password count like attempts to log in.
    """
    await access.change_own_password(
        identity_of(request),
        change.current_password.get_secret_value(),
        change.new_password.get_secret_value(),
        client,
        actor,
    )
    return Response(status_code=204, headers=_NOT_STORED)


def to_api_key(record: KeyRecord) -> ApiKey:
    """Map a stored key."""
    return ApiKey(
        id=record.id,
        name=record.name,
        scopes=cast("list[ScopeName]", list(record.scopes)),
        products=None if record.products is None else list(record.products),
        stations=None if record.stations is None else list(record.stations),
        created_at=record.created_at,
        created_by=record.created_by,
        expires_at=record.expires_at,
        revoked_at=record.revoked_at,
        last_used_at=record.last_used_at,
    )


def _identification(principal: Principal, identity: Identity | None) -> Response:
    assert principal.kind != "anonymous"
    body = Identification(
        kind=principal.kind,
        id=principal.id,
        name=principal.name,
        scopes=sorted(principal.scopes),
        products=None if principal.products is None else sorted(principal.products),
        stations=None if principal.stations is None else sorted(principal.stations),
        expires_at=None if identity is None else identity.expires_at,
        csrf_token=None if identity is None else identity.csrf_token,
    )
    return Response(body.model_dump_json(), headers=_NOT_STORED, media_type="application/json")


def _without_cookie(request: Request) -> Response:
    response = Response(status_code=204, headers=_NOT_STORED)
    response.delete_cookie(
        session_cookie(request.scope), secure=is_secure(request.scope), httponly=True, samesite="strict"
    )
    return response
