"""Every route of the application, tried with every kind of credential."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.access.keys import NewKey
from service.access.principal import SCOPES, Scope
from service.api.http.access import Operation, operations_of
from service.api.routes import products
from service.app import create_app
from service.settings import Settings
from service.store.models import ApiKeyRow
from tests.access import OPERATOR, bearer, make_key
from tests.running_service import GOOD, INSPECT, RunningService, run_service

OPEN = {
    "/openapi.json",
    "/docs",
    "/docs/assets/{path:path}",
    "/favicon.ico",
    "/problems",
    "/",
    "/health/live",
    "/health/ready",
    "/v1/access/login",
    "/v2/health/live",
    "/v2/health/ready",
    "/login",
    "/web/assets/{digest}/{name:path}",
}
LOG_IN = {"/login", "/v1/access/login"}
ANY = {
    "/v1/access/me",
    "/v1/access/me:password",
    "/v1/access/logout",
    "/v1/access/logout-everywhere",
    "/account",
    "/logout",
}
# A GET needs `inspect`, and a change needs `engineer`, except for these.
SCOPE_OF = {
    "POST /v1/products/{product}/inspections": "inspect",
    "POST /v1/products/{product}/inspections:batch": "inspect",
    "POST /v2/models/{product}/infer": "inspect",
    "POST /v2/models/{product}/versions/{version}/infer": "inspect",
    "POST /v1/inspections/{inspection_id}:review": "review",
    "POST /v1/inspections/{inspection_id}:undo-review": "review",
    "GET /v1/reviews:queue": "review",
    "GET /review": "review",
    "GET /v1/reviews:kinds": "review",
    "GET /v1/reviews:agreement": "review",
    "GET /v1/reviews:rates": "review",
    "GET /v1/reviews:export": "review",
    "GET /v1/products/{product}/report": "review",
    "POST /2020-11-20/projects/{product}/models/{model_version}/detect": "inspect",
    "GET /products": "engineer",
    "GET /products:table": "engineer",
    "GET /products/{product}": "engineer",
    "GET /products/{product}/preview": "engineer",
    "GET /products/{product}/recipe": "engineer",
    "GET /products/{product}/history": "engineer",
    "GET /products/{product}/versions": "engineer",
    "GET /products/{product}/versions:table": "engineer",
    "GET /products/{product}/drift": "engineer",
    "GET /products/{product}/report": "review",
    "GET /products/{product}/report/figures": "review",
    "GET /v1/outbox": "engineer",
    "GET /v1/outbox/dead-letters": "engineer",
    "GET /v1/audit": "admin",
    "GET /v1/audit:head": "admin",
    "GET /v1/audit:verify": "admin",
    "GET /v1/audit:export": "admin",
    "GET /v1/products/{product}/training-jobs/{job_id}/images": "engineer",
    "GET /v1/products/{product}/training-jobs/{job_id}/images/{number}": "engineer",
    "GET /training": "engineer",
    "GET /training:jobs": "engineer",
    "GET /v1/system": "engineer",
    "GET /inspections": "engineer",
    "GET /inspections:counts": "engineer",
    "GET /try": "engineer",
    "GET /system": "engineer",
    "GET /system:state": "engineer",
    "GET /system/audit": "admin",
    "GET /system/keys": "admin",
    "GET /system/keys:table": "admin",
    "GET /system/accounts": "admin",
    "GET /system/accounts:table": "admin",
}
# Endpoints about all products that leave out what a restricted key may not use. Others are refused to such a key.
FILTERING = {
    "/products",
    "/products:table",
    "/alarms",
    "/inspections",
    "/inspections:counts",
    "/live",
    "/review",
    "/system/audit",
    "/training",
    "/training:jobs",
    "/try",
    "/v1/alarms",
    "/v1/audit",
    "/v1/audit:export",
    "/v1/inspections",
    "/v1/inspections:events",
    "/v1/inspections:export",
    "/v1/inspections:shift",
    "/v1/inspections:summary",
    "/v1/products",
    "/v1/reviews:agreement",
    "/v1/reviews:export",
    "/v1/reviews:kinds",
    "/v1/reviews:queue",
    "/v1/reviews:rates",
    "/v1/training-jobs:claim",
    "/v2",
}
CREDENTIALS = ("none", "malformed", "unknown", "wrong", "revoked", "expired", *SCOPES, "other-product", "this-product")
# How the request is answered when it was admitted: with a result, or because the request itself is not complete.
ADMITTED = {200, 201, 202, 204, 400, 404, 406, 409, 415, 422}


@dataclass(frozen=True)
class Keys:
    """A running service that needs credentials, and one key of each kind."""

    service: RunningService
    headers: dict[str, dict[str, str]]
    inspection: str


@pytest.fixture(scope="module")
def keys(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    with run_service(tiny_models, tmp_path_factory.mktemp("data"), metrics_open=False) as service:
        inspection = service.inspect(GOOD).json()["id"]
        engine, access = service.store.engine, service.app.state.access
        made: dict[str, NewKey] = {scope: make_key(engine, scope) for scope in SCOPES}
        made["other-product"] = make_key(engine, "inspect", "engineer", products=["gadget"])
        made["this-product"] = make_key(engine, "inspect", "engineer", products=["widget"])
        made["revoked"], made["expired"] = (
            make_key(engine, *SCOPES),
            make_key(engine, *SCOPES, expires_at=datetime.now(UTC) + timedelta(hours=1)),
        )
        with engine.begin() as connection:
            past = datetime.now(UTC) - timedelta(seconds=1)
            of_expired = ApiKeyRow.__table__.c.id == made["expired"].record.id
            connection.execute(update(ApiKeyRow).where(of_expired).values(expires_at=past))
        access.revoke_key(made["revoked"].record.id, OPERATOR)
        access._require("test")
        valid = made["inspect"].key
        headers = {name: bearer(key) for name, key in made.items()} | {
            "none": {},
            "malformed": bearer("secret"),
            "unknown": bearer(f"plumb_{'0' * 16}_{'0' * 64}"),
            "wrong": bearer(valid[:-1] + ("0" if valid[-1] != "0" else "1")),
        }
        yield Keys(service, headers, inspection)


def all_operations() -> list[tuple[str, Operation]]:
    app = create_app(Settings(models=Path("models"), data=Path("data")))
    found = []
    for operation in operations_of(app.routes):
        for method in sorted(operation.methods or {"WEBSOCKET"}):
            found.append((method, operation))
    return found


OPERATIONS = all_operations()


def expected_scope(method: str, path: str) -> str | None:
    """Return the scope of a route by the rules of docs/security.md, not by what the route declares."""
    if path in OPEN:
        return None
    if path in ANY:
        return "any"
    if path.startswith("/v1/access/"):
        return "admin"
    usual = "inspect" if method in {"GET", "HEAD", "WEBSOCKET"} else "engineer"
    return SCOPE_OF.get(f"{method} {path}", usual)


def expected_status(credential: str, scope: str | None, path: str) -> set[int]:
    if scope is None:
        return ADMITTED | {401, 429} if path in LOG_IN else ADMITTED
    if credential in {"none", "malformed", "unknown", "wrong", "revoked", "expired"}:
        return {401}
    if scope == "any":
        return ADMITTED
    granted = {"inspect", "engineer"} if credential.endswith("-product") else {credential}
    if scope not in granted:
        return {403}
    if credential.endswith("-product") and "{product}" not in path and "{inspection_id" not in path:
        return ADMITTED if path in FILTERING else {403}
    if credential == "other-product" and "{product}" in path:
        return {403}
    if credential == "other-product" and "{inspection_id" in path:
        return {404}
    return ADMITTED


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize(("method", "operation"), OPERATIONS, ids=[f"{m} {o.path}" for m, o in OPERATIONS])
def test_route_admits_whom_it_should(keys: Keys, method: str, operation: Operation, credential: str) -> None:
    path = operation.path
    url = re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: {"product": "widget", "inspection_id": keys.inspection,
        "path": "problems.css", "revision": "1", "other": "1"}.get(found[1], "0" * 16), path)  # fmt: skip
    status, body, headers = send(keys.service, method, url, keys.headers[credential])
    wanted = expected_status(credential, expected_scope(method, path), path)
    assert status in wanted, f"{method} {url} with {credential}: {status} {body}"
    if status == 401 and path not in LOG_IN:
        slug = "not-authenticated" if credential == "none" else "invalid-key"
        assert slug in body + headers.get("x-problem-type", "")
        assert headers["www-authenticate"].startswith("Bearer")
    if status == 403:
        assert re.search("insufficient-scope|not-permitted", body + headers.get("x-problem-type", ""))


def send(service: RunningService, method: str, url: str, headers: dict[str, str]) -> tuple[int, str, httpx.Headers]:
    if method == "WEBSOCKET":
        try:
            with connect(f"ws://127.0.0.1:{service.port}{url}", additional_headers=headers):
                return 200, "", httpx.Headers()
        except InvalidStatus as error:
            refused = error.response
            return (
                refused.status_code,
                (refused.body or b"").decode(),
                httpx.Headers(list(refused.headers.raw_items())),
            )
    with service.client.stream(method, url, headers=headers) as response:
        # The stream of events has no end.
        content = b"" if response.headers["content-type"].startswith("text/event-stream") else response.read()
    return response.status_code, content.decode(errors="replace"), response.headers


def test_scopes_of_all_routes_are_those_of_the_documentation() -> None:
    for method, operation in OPERATIONS:
        assert operation.rule.scope == expected_scope(method, operation.path), (method, operation.path)
        assert operation.rule.filters == (operation.path in FILTERING), operation.path


def test_insufficient_scope_names_the_scope_that_is_needed(keys: Keys) -> None:
    response = keys.service.client.put("/v1/products/widget/recipe", json={}, headers=keys.headers["inspect"])
    problem = response.json()
    assert (response.status_code, problem["type"].partition("#")[2]) == (403, "insufficient-scope")
    assert (problem["required"], problem["granted"]) == ("engineer", ["inspect"])


def test_path_without_an_endpoint_is_unknown_and_discloses_nothing(keys: Keys) -> None:
    for path in ("/v1/ghost", "/v1/inspections/", "/V1/products"):
        assert keys.service.client.get(path).status_code == 404
    assert keys.service.client.delete("/v1/products/widget/recipe").status_code == 405


@pytest.mark.parametrize("path", ["/v1/products/widget%2Frecipe", "//v1/products", "/v1/products/%2e%2e/products"])
def test_unusual_spelling_of_a_path_does_not_pass_the_check(keys: Keys, path: str) -> None:
    assert keys.service.client.get(path).status_code in {401, 404}


def test_body_is_not_read_before_the_check(keys: Keys) -> None:
    with keys.service.connect() as connection:
        head = (
            f"POST {INSPECT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: image/png\r\ncontent-length: 1000000\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in answer.lower()


def _app(*routes: Route | Mount) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.router.routes.extend(routes)
    return app


async def _endpoint(request: Request) -> Response:
    return Response()


def test_application_with_an_endpoint_without_scope_cannot_be_created() -> None:
    with pytest.raises(RuntimeError, match="/bare: no scope is declared"):
        list(operations_of(_app(Route("/bare", _endpoint)).routes))
    with pytest.raises(RuntimeError, match="/sub: no scope is declared"):
        list(operations_of(_app(Mount("/sub", Starlette())).routes))


def test_create_app_checks_its_routers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(products.list_products, "__access_rule__")
    with pytest.raises(RuntimeError, match="no scope is declared"):
        create_app(Settings(models=Path("models"), data=Path("data")))


def test_scope_names_are_the_same_everywhere() -> None:
    from service.cli.key import SCOPES as OF_COMMANDS
    from service.schemas.access import ScopeName

    assert OF_COMMANDS == SCOPES == ScopeName.__args__ == Scope.__args__  # type: ignore[attr-defined]
