"""Keys, accounts and scopes: a change of them is in force at every replica."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product as combinations
from typing import Any

import httpx

from service.access.principal import SCOPES
from tests.access import PASSWORD, bearer, problem_of
from tests.conformance.deployments import TIMEOUT_S, WHO, Deployment
from tests.conformance.products import ServedProduct
from tests.running_service import GOOD, INSPECT, HttpService

IMAGE = {"content-type": "image/png"}
RECIPE = "/v1/products/widget/recipe"


@contextmanager
def anonymous(deployment: Deployment) -> Iterator[list[httpx.Client]]:
    """Yield a client of each replica that sends no key."""
    with ExitStack() as stack:
        urls = [str(replica.client.base_url) for replica in deployment.replicas]
        yield [stack.enter_context(httpx.Client(base_url=url, timeout=TIMEOUT_S)) for url in urls]


def create_key(deployment: Deployment, service: HttpService, **grant: Any) -> dict[str, Any]:
    body = {"name": deployment.new_name("key"), "scopes": ["inspect"]} | grant
    response = service.client.post("/v1/access/keys", json=body)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created


def inspect(client: httpx.Client, key: dict[str, Any], path: str = INSPECT) -> httpx.Response:
    return client.post(path, content=GOOD, headers=IMAGE | bearer(key["key"]))


def test_key_is_accepted_by_every_replica_and_refused_once_it_is_revoked(deployment: Deployment) -> None:
    with anonymous(deployment) as clients:
        for changing in deployment.replicas:
            key = create_key(deployment, changing)
            for client in clients:
                assert inspect(client, key).status_code == 201
                assert inspect(client, key).status_code == 201, "from a cache"
            revoked = changing.client.post(f"/v1/access/keys/{key['id']}:revoke")
            assert revoked.status_code == 200, revoked.text
            for client in clients:
                assert problem_of(inspect(client, key)) == (401, "invalid-key")


def test_restricted_key_is_refused_elsewhere(deployment: Deployment, shared_product: ServedProduct) -> None:
    key = create_key(deployment, deployment.service, products=[shared_product.name])
    with anonymous(deployment) as clients:
        for client in clients:
            assert inspect(client, key, f"{shared_product.path}/inspections").status_code == 201
            assert problem_of(inspect(client, key)) == (403, "not-permitted")
            listed = client.get("/v1/products", headers=bearer(key["key"])).json()["items"]
            assert [item["product"] for item in listed] == [shared_product.name]
            found = client.get("/v1/inspections", headers=bearer(key["key"])).json()["items"]
            assert {item["product"] for item in found} == {shared_product.name}


# Method, path, options, the scope that is needed. The changes are refused for another reason if they are permitted.
ROUTES: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", INSPECT, {"content": GOOD, "headers": IMAGE}, "inspect"),
    ("GET", "/v1/inspections", {}, "inspect"),
    ("GET", "/v1/products", {}, "inspect"),
    ("GET", "/v1/reviews:queue?product=widget", {}, "review"),
    ("PUT", RECIPE, {"json": WHO | {"fail_threshold": 1, "review_threshold": 2}}, "engineer"),
    ("POST", "/v1/products/widget/bundles:stop-shadow", {"json": WHO}, "engineer"),
    ("GET", "/v1/system", {}, "engineer"),
    ("GET", "/v1/access/keys", {}, "admin"),
    ("GET", "/v1/audit", {}, "admin"),
]


def test_routes_admit_their_scope_only(deployment: Deployment) -> None:
    keys = {scope: create_key(deployment, deployment.service, scopes=[scope])["key"] for scope in SCOPES}
    with anonymous(deployment) as clients:
        for client, (method, path, options, needed) in combinations(clients, ROUTES):
            assert problem_of(client.request(method, path, **options)) == (401, "not-authenticated"), path
            for scope, key in keys.items():
                headers = options.get("headers", {}) | bearer(key)
                response = client.request(method, path, **options | {"headers": headers})
                if scope == needed:
                    assert response.status_code in {200, 201, 409, 422}, response.text
                else:
                    assert problem_of(response) == (403, "insufficient-scope"), (path, scope)


def test_person_who_logs_in_at_one_replica_is_known_at_every_other(deployment: Deployment) -> None:
    name = deployment.new_name("person")
    body = {"name": name, "role": "engineer", "password": PASSWORD}
    created = deployment.service.client.post("/v1/access/accounts", json=body)
    assert created.status_code == 201, created.text
    with anonymous(deployment) as clients:
        entered = clients[-1].post("/v1/access/login", json={"name": name, "password": PASSWORD})
        assert entered.status_code == 200, entered.text
        session = {"cookie": entered.headers["set-cookie"].partition(";")[0]}
        clients[-1].cookies.clear()
        token = {"x-csrf-token": entered.json()["csrf_token"]}
        for client in clients:
            assert client.get("/v1/access/me", headers=session).json()["name"] == name
            change = {"reason": "test", "fail_threshold": 1, "review_threshold": 2}
            assert problem_of(client.put(RECIPE, json=change, headers=session)) == (403, "csrf-failed")
            admitted = client.put(RECIPE, json=change, headers=session | token)
            assert problem_of(admitted) == (422, "invalid-recipe")
        disabled = deployment.service.client.post(f"/v1/access/accounts/{created.json()['id']}:disable")
        assert disabled.status_code == 200, disabled.text
        for client in clients:
            refused = client.post(INSPECT, content=GOOD, headers=IMAGE | session | token)
            assert refused.status_code == 401, refused.text
            again = client.post("/v1/access/login", json={"name": name, "password": PASSWORD})
            assert again.status_code == 401, again.text


def test_changes_through_every_replica_are_in_the_audit_log(deployment: Deployment) -> None:
    made = [create_key(deployment, replica)["id"] for replica in deployment.replicas]
    for replica in deployment.replicas:
        entries = replica.fetch("/v1/audit", action="key:create", limit=len(made))["items"]
        assert [entry["object"] for entry in entries] == made[::-1]
        assert {entry["actor"] for entry in entries} == {"suite"}
        verified = replica.fetch("/v1/audit:verify")
        assert verified["intact"]
        assert verified["head"] == replica.fetch("/v1/audit:head")["hash"]
