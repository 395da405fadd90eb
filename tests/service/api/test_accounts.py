"""Accounts over HTTP: an administrator manages them, a person changes the own password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from service.access.keys import revoke
from service.store.access import change_account, list_keys
from tests.access import OPERATOR, PASSWORD, bearer, make_key, problem_of
from tests.running_service import RunningService, Serve

ACCOUNTS = "/v1/access/accounts"
ME = "/v1/access/me"
NEW = "another long password"


@pytest.fixture
def admin(serve: Serve) -> Iterator[RunningService]:
    """A service with an administrator's key, which its client sends."""
    with serve(login_attempts=100) as running:
        running.client.headers.update(bearer(make_key(running.store.engine, "admin", "inspect")))
        running.app.state.access._require("test")
        yield running


def create(service: RunningService, name: str, role: str = "operator", password: str = PASSWORD) -> httpx.Response:
    return service.client.post(ACCOUNTS, json={"name": name, "role": role, "password": password})


def change(service: RunningService, account: dict[str, Any], what: str, **body: Any) -> httpx.Response:
    return service.client.post(f"{ACCOUNTS}/{account['id']}:{what}", json=body or None)


@contextmanager
def signed_in(service: RunningService, name: str, password: str = PASSWORD) -> Iterator[httpx.Client]:
    """Log in with a client of its own."""
    with httpx.Client(base_url=service.client.base_url, timeout=10) as client:
        response = client.post("/v1/access/login", json={"name": name, "password": password})
        assert response.status_code == 200, response.text
        client.headers["x-csrf-token"] = response.json()["csrf_token"]
        yield client


def audited(service: RunningService, **which: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.client.get("/v1/audit", params=which).raise_for_status().json()["items"]
    return found


@pytest.mark.slow
def test_life_of_an_account(admin: RunningService) -> None:
    created = create(admin, " Kim ")
    assert created.status_code == 201
    kim = created.json()
    assert (kim["name"], kim["role"], kim["disabled_at"], kim["last_login_at"]) == ("Kim", "operator", None, None)
    with signed_in(admin, "kim") as person:
        assert person.get(ME).json()["scopes"] == ["inspect", "review"]
        assert change(admin, kim, "role", role="engineer").json()["role"] == "engineer"
        assert person.get(ME).status_code == 401, "another role ends the sessions"
    with signed_in(admin, "kim") as person:
        assert "engineer" in person.get(ME).json()["scopes"]
        assert change(admin, kim, "disable").json()["disabled_at"] is not None
        assert person.get(ME).status_code == 401
    assert problem_of(admin.client.post("/v1/access/login", json={"name": "kim", "password": PASSWORD}))[0] == 401
    assert change(admin, kim, "enable").json()["disabled_at"] is None
    with signed_in(admin, "kim") as person:
        assert change(admin, kim, "password", password=NEW).status_code == 200
        assert person.get(ME).status_code == 401
    with signed_in(admin, "kim", NEW):
        pass
    (listed,) = admin.client.get(ACCOUNTS).json()["items"]
    assert listed["last_login_at"] is not None
    assert "argon2" not in str(listed)

    for what in ("disable", "enable"):
        change(admin, kim, what)
        change(admin, kim, what)
    change(admin, kim, "role", role="engineer")
    actions = [entry["action"] for entry in audited(admin) if entry["action"].startswith("account:")]
    assert [action.removeprefix("account:") for action in actions[::-1]] == [
        "create", "role", "disable", "enable", "password", "disable", "enable",
    ], "no entry without a change"  # fmt: skip
    (role,) = audited(admin, action="account:role")
    assert (role["object"], role["actor"], role["actor_kind"]) == ("Kim", "admin-inspect", "key")
    assert role["before"] == {"role": "operator", "enabled": True}
    assert role["after"] == {"role": "engineer", "enabled": True, "ended_sessions": 1}
    everything = str(audited(admin))
    assert not any(secret in everything for secret in (PASSWORD, NEW, "argon2", admin.client.headers["authorization"]))


@pytest.mark.slow
def test_account_that_cannot_be_created_or_changed(admin: RunningService) -> None:
    kim = create(admin, "Kim").json()
    assert problem_of(create(admin, "KIM", "admin")) == (409, "account-exists")
    assert problem_of(create(admin, "lee", password="short")) == (422, "account-refused")
    assert problem_of(change(admin, kim, "password", password="my-Kim-password")) == (422, "account-refused")
    for name in ("plumbline", " PlumbLine", "\uff30lumbline", "Local"):
        assert create(admin, name).status_code == 422
        assert admin.client.post("/v1/access/keys", json={"name": name, "scopes": ["inspect"]}).status_code == 422, name
    assert problem_of(create(admin, "lee", "root")) == (422, "invalid-request")
    for what, body in (("disable", {}), ("enable", {}), ("role", {"role": "admin"}), ("password", {"password": NEW})):
        assert problem_of(change(admin, {"id": "ghost"}, what, **body)) == (404, "unknown-account")


@pytest.mark.slow
def test_last_administrator_stays_unless_a_key_can_manage_accounts(admin: RunningService) -> None:
    ada, eve = (create(admin, name, "admin").json() for name in ("ada", "eve"))
    (key,) = list_keys(admin.store.engine)
    other = make_key(admin.store.engine, "engineer")
    with signed_in(admin, "ada") as person:
        revoke(admin.store.engine, key.id, OPERATOR)

        def by_ada(account: dict[str, Any], what: str, **body: Any) -> httpx.Response:
            return person.post(f"{ACCOUNTS}/{account['id']}:{what}", json=body or None)

        assert by_ada(eve, "disable").status_code == 200
        for what, body in (("disable", {}), ("role", {"role": "engineer"})):
            refused = by_ada(ada, what, **body)
            assert problem_of(refused) == (409, "last-admin")
            assert "plumbline key create" in refused.json()["detail"]
        assert person.get(ACCOUNTS).json()["items"][0]["role"] == "admin", "her session has not ended, either"
        assert by_ada(ada, "role", role="admin").status_code == 200
        make_key(admin.store.engine, "admin")
        assert by_ada(ada, "disable").status_code == 200
    assert other.record.revoked_at is None


@pytest.mark.slow
def test_person_changes_the_own_password(admin: RunningService) -> None:
    create(admin, "kim")
    with signed_in(admin, "kim") as person, signed_in(admin, "kim") as other:
        body = {"current_password": PASSWORD, "new_password": NEW}
        wrong = person.post(f"{ME}:password", json=body | {"current_password": "wrong password"})
        assert problem_of(wrong) == (403, "wrong-password")
        weak = person.post(f"{ME}:password", json=body | {"new_password": "short"})
        assert problem_of(weak) == (422, "account-refused")
        with httpx.Client(base_url=person.base_url, cookies=person.cookies) as without_token:
            assert problem_of(without_token.post(f"{ME}:password", json=body)) == (403, "csrf-failed")
        assert other.get(ME).status_code == 200
        assert person.post(f"{ME}:password", json=body).status_code == 204
        assert person.get(ME).status_code == 200
        assert other.get(ME).status_code == 401
    with signed_in(admin, "kim", NEW):
        pass
    assert problem_of(admin.client.post(f"{ME}:password", json=body)) == (409, "no-session"), "a key has no password"
    (entry,) = audited(admin, action="account:password")
    assert (entry["actor_kind"], entry["actor"], entry["after"]["ended_sessions"]) == ("account", "kim", 1)


@pytest.mark.slow
def test_attempts_with_a_wrong_current_password_are_limited(serve: Serve) -> None:
    with serve(login_attempts=3) as service:
        service.client.headers.update(bearer(make_key(service.store.engine, "admin")))
        service.app.state.access._require("test")
        create(service, "kim")
        with signed_in(service, "kim") as person:
            body = {"current_password": "wrong password", "new_password": NEW}
            statuses = [person.post(f"{ME}:password", json=body).status_code for _ in range(4)]
        assert statuses == [403, 403, 403, 429]


@pytest.mark.slow
def test_password_that_an_administrator_set_meanwhile_is_not_replaced(
    admin: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    kim = create(admin, "kim").json()
    with signed_in(admin, "kim") as person:

        def late(engine: Any, account_id: str, own: Any) -> Any:
            monkeypatch.undo()
            assert change(admin, kim, "disable").status_code == 200
            return change_account(engine, account_id, own)

        monkeypatch.setattr("service.access.accounts.change_account", late)
        body = {"current_password": PASSWORD, "new_password": NEW}
        assert problem_of(person.post(f"{ME}:password", json=body)) == (403, "wrong-password")
    (listed,) = admin.client.get(ACCOUNTS).json()["items"]
    assert listed["disabled_at"] is not None


def test_first_account_requires_credentials(serve: Serve) -> None:
    with serve() as service:
        assert create(service, "kim", "admin").status_code == 201
        assert service.client.get(ACCOUNTS).status_code == 401


@pytest.mark.slow
def test_accounts_are_named_by_id_or_name(admin: RunningService) -> None:
    account = create(admin, "Jörg Weiß").json()
    for name, what, is_enabled in (("jörg weiß", "disable", False), (account["id"], "enable", True)):
        response = admin.client.post(f"{ACCOUNTS}/{name}:{what}")
        assert response.status_code == 200, response.text
        assert (response.json()["id"], response.json()["disabled_at"] is None) == (account["id"], is_enabled)
    unknown = admin.client.post(f"{ACCOUNTS}/kim:disable")
    assert problem_of(unknown) == (404, "unknown-account")
    assert "with the name or the id 'kim'" in unknown.json()["detail"]
