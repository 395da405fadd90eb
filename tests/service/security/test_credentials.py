"""Attacks on keys, accounts, sessions and the origin checks."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.host_names import is_address, is_loopback
from tests.access import PASSWORD, problem_of
from tests.running_service import GOOD, INSPECT
from tests.service.security.conftest import PNG, Target

LOGIN, ME = "/v1/access/login", "/v1/access/me"
COOKIE = "plumbline"


def log_in(target: Target, name: str = "kim", password: str = PASSWORD, **headers: str) -> httpx.Response:
    return target.client.post(LOGIN, json={"name": name, "password": password}, headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": ""},
        {"x-api-key": b"\xe9"},
        {"authorization": b"Bearer \xff\xfe"},
        {"authorization": "Bearer " + " " * 30_000 + "x"},
        {"authorization": f"Bearer plumb_{'0' * 16}_{'0' * 64}"},
        {"cookie": f"{COOKIE}="},
        {"cookie": f'{COOKIE}="\\377\\000"'},
        {"cookie": f"{COOKIE}={'a' * 60_000}"},
        {"x-forwarded-user": "admin", "x-remote-user": "admin", "forwarded": "for=127.0.0.1"},
        {"sec-websocket-protocol": "bearer"},
    ],
)
def test_malformed_credential_is_no_credential(target: Target, headers: dict[str, Any]) -> None:
    assert target.client.get("/v1/products", headers=headers).status_code == 401


def test_key_in_the_query_is_not_accepted(target: Target) -> None:
    key = target.keys["inspect"]["authorization"].removeprefix("Bearer ")
    for name in ("api_key", "key", "token", "access_token", "authorization"):
        assert target.client.get("/v1/products", params={name: key}).status_code == 401


def test_two_different_keys_are_refused_however_they_are_sent(target: Target) -> None:
    low, high = (target.keys[name]["authorization"] for name in ("inspect", "admin"))
    for pair in (
        [("authorization", low), ("authorization", high)],
        [("authorization", low), ("x-api-key", high.removeprefix("Bearer "))],
        [("x-api-key", low.removeprefix("Bearer ")), ("x-api-key", high.removeprefix("Bearer "))],
    ):
        assert problem_of(target.client.get("/v1/audit", headers=pair)) == (400, "conflicting-credentials")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"cookie": f"{COOKIE}=x"}, 401),
        ({"sec-websocket-protocol": "bearer"}, 401),
        ({"key": "gadget"}, 403),
        ({"key": "admin"}, 403),
        ({"key": "inspect", "origin": "http://evil.example"}, 403),
    ],
)
def test_stream_needs_a_key_in_a_header_and_no_foreign_page(
    target: Target, headers: dict[str, str], status: int
) -> None:
    sent = {name: value for name, value in headers.items() if name != "key"} | target.keys.get(
        headers.get("key", ""), {}
    )
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(f"ws://127.0.0.1:{target.service.port}/v1/products/widget/stream", additional_headers=sent),
    ):
        pass
    assert refused.value.response.status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example"},
        {"host": "127.0.0.1.nip.io"},
        {"host": "localhost.evil.example"},
        {"host": "localhost@evil.example"},
        {"host": "evil.example#localhost"},
        {"host": "127.0.0.1%evil.example"},
        {"host": "[::1]:80:80"},
        {"host": ""},
    ],
)
def test_foreign_page_cannot_log_in(target: Target, headers: dict[str, str]) -> None:
    response = log_in(target, **headers)
    assert response.status_code in {403, 421}
    assert "evil" not in response.text
    assert "set-cookie" not in response.headers


def test_only_ipv6_addresses_have_a_zone() -> None:
    assert is_address("fe80::1%eth0")
    for host in ("127.0.0.1%evil.example", "127.0.0.1%"):
        assert not is_address(host)
        assert not is_loopback(host)


@pytest.mark.parametrize("address", ["10.0.0.9, 127.0.0.1", "garbage", "127.0.0.1 , x", "0x7f000001", "2130706433"])
def test_forwarded_address_opens_nothing(target: Target, address: str) -> None:
    headers = {"x-forwarded-for": address, "x-real-ip": "127.0.0.1", "x-forwarded-host": "localhost"}
    for path in ("/v1/products", "/metrics"):
        assert target.client.get(path, headers=headers).status_code == 401


def test_guessing_from_one_client_is_stopped_and_does_not_lock_the_account(target: Target) -> None:
    attempts = target.service.settings.login_attempts
    attacker = {"x-forwarded-for": "10.1.1.1"}
    statuses = [log_in(target, "ann", f"wrong {n} password", **attacker).status_code for n in range(attempts)]
    assert statuses == [401] * attempts
    for name in ("ann", "ANN", "\uff41\uff4e\uff4e", " ann "):
        assert problem_of(log_in(target, name, **attacker)) == (429, "too-many-logins"), "one account, however spelled"
    assert log_in(target, "ann", **{"x-forwarded-for": "10.2.2.2"}).status_code == 200


def test_other_spelling_of_a_name_is_another_account(target: Target) -> None:
    for name in ("kim\u200b", "kim\x00", "k\u0456m", "kim%"):
        assert log_in(target, name, **{"x-forwarded-for": "10.3.3.3"}).status_code in {401, 422}


def test_session_token_of_the_attacker_is_not_adopted(target: Target) -> None:
    response = log_in(target, cookie=f"{COOKIE}=attacker")
    assert response.status_code == 200
    assert target.client.cookies[COOKIE] != "attacker"
    for word in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert word in response.headers["set-cookie"]


def test_session_needs_its_csrf_token_in_the_header(target: Target) -> None:
    csrf = log_in(target).json()["csrf_token"]
    cookie = target.client.cookies[COOKIE]
    for headers, params in (
        ({}, {}),
        ({"x-csrf-token": ""}, {}),
        ({"x-csrf-token": cookie}, {}),
        ({"x-csrf-token": csrf[:-1]}, {}),
        ({}, {"csrf_token": csrf}),
    ):
        refused = target.client.post(INSPECT, content=GOOD, headers=PNG | headers, params=params)
        assert problem_of(refused) == (403, "csrf-failed")
    sent = target.client.post(INSPECT, content=GOOD, headers=PNG | {"x-csrf-token": csrf})
    assert sent.status_code == 201


def test_ended_session_is_not_accepted_again(target: Target) -> None:
    csrf = log_in(target).json()["csrf_token"]
    token = target.client.cookies[COOKIE]
    for spelled in (token.upper(), f'"{token}"', token[:-1], f"__Host-{token}"):
        assert httpx.get(f"{target.client.base_url}{ME}", headers={"cookie": f"{COOKIE}={spelled}"}).status_code == 401
    assert target.client.post("/v1/access/logout", headers={"x-csrf-token": csrf}).status_code == 204
    assert httpx.get(f"{target.client.base_url}{ME}", headers={"cookie": f"{COOKIE}={token}"}).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/access/keys", {"name": "mine", "scopes": ["admin"]}),
        ("GET", "/v1/access/keys", None),
        ("POST", "/v1/access/keys/0000000000000000:revoke", None),
        ("GET", "/v1/audit", None),
        ("GET", "/v1/audit:head", None),
    ],
)
@pytest.mark.parametrize("key", ["inspect", "engineer", "gadget", "station"])
def test_key_cannot_raise_its_own_rights(
    target: Target, key: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    response = target.client.request(method, path, json=body, headers=target.keys[key])
    assert problem_of(response)[0] == 403
