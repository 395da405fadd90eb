"""Sessions of people: cookies, CSRF tokens, log-in and log-out."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update
from websockets.sync.client import connect

from service.access import cache
from service.access.accounts import disable, set_password
from service.store.models import SessionRow
from tests.access import OPERATOR, PASSWORD, bearer, log_in, make_account, make_key, problem_of
from tests.running_service import GOOD, INSPECT, RunningService, Serve

ME = "/v1/access/me"
HELLO = '{"type": "hello"}'


def test_session_of_a_person(secured: RunningService, anonymous: httpx.Client) -> None:
    make_account(secured.store.engine, "Kim", "engineer")
    response = anonymous.post("/v1/access/login", json={"name": " kIM ", "password": PASSWORD})
    body = response.json()
    assert (body["kind"], body["name"], body["scopes"]) == ("account", "Kim", ["engineer", "inspect", "review"])
    (name, cookie) = next(iter(SimpleCookie(response.headers["set-cookie"]).items()))
    assert name == "plumbline"
    assert (cookie["httponly"], cookie["samesite"].lower(), cookie["path"]) == (True, "strict", "/")
    assert not cookie["secure"], "over plain HTTP a browser would drop it"
    assert not cookie["domain"]
    me = anonymous.get(ME)
    assert me.json()["csrf_token"] == body["csrf_token"]
    assert me.headers["cache-control"] == "no-store"


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [True, False])
def test_cookie_is_secure_behind_a_trusted_proxy_with_tls(serve: Serve, trusted: bool, monkeypatch: Any) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "127.0.0.1" if trusted else "192.0.2.1")
    with serve() as service:
        make_account(service.store.engine, "kim")
        proxied = {"x-forwarded-proto": "https", "x-forwarded-for": "198.51.100.7"}
        login = {"name": "kim", "password": PASSWORD}
        response = service.client.post("/v1/access/login", json=login, headers=proxied)
        ((name, cookie),) = SimpleCookie(response.headers["set-cookie"]).items()
        assert (name, bool(cookie["secure"])) == (("__Host-plumbline", True) if trusted else ("plumbline", False))
        cookies = {"cookie": f"{name}={cookie.value}"}
        service.client.cookies.clear()
        assert service.client.get(ME, headers=proxied | cookies).status_code == 200
        assert service.client.get(ME, headers=cookies).status_code == (401 if trusted else 200)


def test_change_by_session_needs_its_csrf_token(secured: RunningService, anonymous: httpx.Client) -> None:
    make_account(secured.store.engine, "csrf", "admin")
    with httpx.Client(base_url=anonymous.base_url) as other:
        foreign = other.post("/v1/access/login", json={"name": "csrf", "password": PASSWORD}).json()["csrf_token"]
    own = anonymous.post("/v1/access/login", json={"name": "csrf", "password": PASSWORD}).json()["csrf_token"]
    assert own != foreign
    body = {"name": "made-by-csrf", "scopes": ["inspect"]}
    for headers in ({}, {"x-csrf-token": ""}, {"x-csrf-token": foreign}):
        response = anonymous.post("/v1/access/keys", json=body, headers=headers)
        assert problem_of(response) == (403, "csrf-failed")
        assert problem_of(anonymous.post("/v1/access/logout", headers=headers)) == (403, "csrf-failed")
    created = anonymous.post("/v1/access/keys", json=body, headers={"x-csrf-token": own})
    assert created.json()["created_by"] == "csrf"
    assert anonymous.get("/v1/access/keys").status_code == 200, "reading needs no token"


def test_key_takes_precedence_over_a_cookie_and_needs_no_csrf_token(
    secured: RunningService, anonymous: httpx.Client
) -> None:
    make_account(secured.store.engine, "both", "admin")
    anonymous.post("/v1/access/login", json={"name": "both", "password": PASSWORD})
    key = make_key(secured.store.engine, "inspect")
    assert anonymous.get(ME, headers=bearer(key)).json()["kind"] == "key"
    assert anonymous.post(INSPECT, headers=bearer(key) | {"content-type": "image/png"}, content=GOOD).is_success
    assert problem_of(anonymous.get(ME, headers=bearer("x"))) == (401, "invalid-key"), "no fallback to the cookie"


def test_stream_is_not_opened_by_a_cookie(secured: RunningService, anonymous: httpx.Client) -> None:
    make_account(secured.store.engine, "ws")
    anonymous.post("/v1/access/login", json={"name": "ws", "password": PASSWORD})
    cookie = "; ".join(f"{name}={value}" for name, value in anonymous.cookies.items())
    url = f"ws://127.0.0.1:{secured.port}/v1/products/widget/stream"
    with pytest.raises(Exception, match="401"), connect(url, additional_headers={"cookie": cookie}):
        pass


@pytest.mark.slow
def test_log_out_ends_the_session_and_log_out_everywhere_all_of_them(
    secured: RunningService, anonymous: httpx.Client
) -> None:
    make_account(secured.store.engine, "out")
    with httpx.Client(base_url=anonymous.base_url) as second:
        login = {"name": "out", "password": PASSWORD}
        tokens = [client.post("/v1/access/login", json=login).json()["csrf_token"] for client in (anonymous, second)]
        old = dict(anonymous.cookies)
        response = anonymous.post("/v1/access/logout", headers={"x-csrf-token": tokens[0]})
        assert response.status_code == 204
        assert not anonymous.cookies
        assert problem_of(anonymous.get(ME, headers={"cookie": f"plumbline={old['plumbline']}"}))[0] == 401
        assert second.get(ME).status_code == 200
        third = anonymous.post("/v1/access/login", json=login).json()["csrf_token"]
        assert anonymous.post("/v1/access/logout-everywhere", headers={"x-csrf-token": third}).status_code == 204
        assert second.get(ME).status_code == 401
    key = make_key(secured.store.engine, "inspect")
    refused = anonymous.post("/v1/access/logout", headers=bearer(key))
    assert problem_of(refused) == (409, "no-session")


@pytest.mark.slow
@pytest.mark.parametrize("change", [set_password, disable])
def test_change_of_the_account_ends_its_sessions(secured: RunningService, anonymous: httpx.Client, change: Any) -> None:
    name = f"changed-{change.__name__}"
    make_account(secured.store.engine, name)
    anonymous.post("/v1/access/login", json={"name": name, "password": PASSWORD})
    assert anonymous.get(ME).status_code == 200
    change(secured.store.engine, name, *(["another long password"] if change is set_password else []), OPERATOR)
    deadline = time.monotonic() + 1.0
    while anonymous.get(ME).status_code != 401:
        assert time.monotonic() < deadline, "a change by another process takes effect within a second"
        time.sleep(0.02)
    again = anonymous.post("/v1/access/login", json={"name": name, "password": PASSWORD})
    assert problem_of(again) == (401, "login-failed")


@pytest.mark.parametrize("column", ["last_seen_at", "expires_at"])
def test_session_ends_when_it_was_idle_or_is_too_old(
    secured: RunningService, anonymous: httpx.Client, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "FRESH_S", -1.0)
    make_account(secured.store.engine, column)
    anonymous.post("/v1/access/login", json={"name": column, "password": PASSWORD})
    assert anonymous.get(ME).status_code == 200
    with secured.store.engine.begin() as connection:
        connection.execute(update(SessionRow).values({column: datetime.now(UTC) - timedelta(hours=1, seconds=1)}))
    assert problem_of(anonymous.get(ME)) == (401, "not-authenticated")


@pytest.mark.parametrize("headers", [{"x-background": "1"}, {"sec-fetch-dest": "image"}])
def test_what_a_page_refreshes_on_its_own_does_not_keep_a_session(
    secured: RunningService, anonymous: httpx.Client, headers: dict[str, str]
) -> None:
    name = f"idle-{next(iter(headers))}"
    make_account(secured.store.engine, name)
    anonymous.post("/v1/access/login", json={"name": name, "password": PASSWORD})
    mine = SessionRow.account_id == anonymous.get(ME).json()["id"]
    half = datetime.now(UTC) - timedelta(minutes=30)

    def last_seen() -> datetime:
        with secured.store.engine.connect() as connection:
            found: datetime = connection.execute(select(SessionRow.last_seen_at).where(mine)).scalar_one()
        return found

    with secured.store.engine.begin() as connection:
        connection.execute(update(SessionRow).where(mine).values(last_seen_at=half))
    time.sleep(cache.LONGEST_S)
    assert anonymous.get(ME, headers=headers).status_code == 200
    assert last_seen() == half
    assert anonymous.get(ME).status_code == 200, "right after it, so that the session is in the cache"
    assert last_seen() > half
    with secured.store.engine.begin() as connection:
        idle = datetime.now(UTC) - timedelta(hours=1, seconds=1)
        connection.execute(update(SessionRow).where(mine).values(last_seen_at=idle))
    time.sleep(cache.LONGEST_S)
    assert problem_of(anonymous.get(ME, headers=headers)) == (401, "not-authenticated")


@pytest.mark.slow
def test_log_in_is_limited_per_account_and_a_success_resets_it(serve: Serve) -> None:
    with serve(login_attempts=3, login_window_s=60) as service:
        for name in ("kim", "lee"):
            make_account(service.store.engine, name)

        def try_in(name: str, password: str = "wrong password") -> httpx.Response:
            return service.client.post("/v1/access/login", json={"name": name, "password": password})

        assert [try_in("kim").status_code for _ in range(2)] == [401, 401]
        log_in(service, "kim")
        assert [try_in("KIM").status_code for _ in range(3)] == [401] * 3
        refused = try_in("kim", PASSWORD)
        assert problem_of(refused) == (429, "too-many-logins"), "the right password, too"
        assert 0 < int(refused.headers["retry-after"]) <= 60
        log_in(service, "lee")
        assert [try_in("ghost").status_code for _ in range(4)] == [401, 401, 401, 429], "unknown names count alike"


@pytest.mark.slow
def test_log_in_is_limited_per_client(serve: Serve) -> None:
    with serve(login_attempts=1) as service:
        statuses = [
            service.client.post("/v1/access/login", json={"name": f"n{number}", "password": "x"}).status_code
            for number in range(6)
        ]
        assert statuses == [401] * 5 + [429]


def test_unknown_name_costs_as_much_as_a_wrong_password(
    secured: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_account(secured.store.engine, "timed")
    from service.access import hashing

    parameters: list[str] = []
    real = type(hashing.PASSWORDS).verify

    def record(self: Any, stored: str, secret: str) -> bool:
        parameters.append(stored.rsplit("$", 2)[0])
        return real(self, stored, secret)

    monkeypatch.setattr(type(hashing.PASSWORDS), "verify", record)
    for name in ("timed", "nobody-has-this-name"):
        secured.client.post("/v1/access/login", json={"name": name, "password": "wrong password"})
    assert len(parameters) == 2
    assert len(set(parameters)) == 1, "argon2 with the same parameters"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["command line", "api"])
def test_new_password_ends_the_limit_of_its_account_once(serve: Serve, by: str) -> None:
    with serve(login_attempts=2) as service:
        engine = service.store.engine
        make_account(engine, "kim")
        make_account(engine, "lee")
        key = bearer(make_key(engine, "admin"))
        service.app.state.access._require("test")

        def attempt(name: str, password: str) -> int:
            body = {"name": name, "password": password}
            return service.client.post("/v1/access/login", json=body).status_code

        for name in ("kim", "lee"):
            assert [attempt(name, "a wrong password") for _ in range(3)] == [401, 401, 429]
        new = "another long password"
        if by == "api":
            changed = service.client.post("/v1/access/accounts/kim:password", json={"password": new}, headers=key)
            assert changed.status_code == 200
        else:
            set_password(engine, "kim", new, OPERATOR)
        assert attempt("lee", PASSWORD) == 429, "the limit of another account remains"
        assert [attempt("kim", "a wrong password") for _ in range(3)] == [401, 401, 429], "a new limit begins"
        set_password(engine, "kim", PASSWORD, OPERATOR)
        assert attempt("kim", PASSWORD) == 200
