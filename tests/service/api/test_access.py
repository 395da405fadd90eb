"""Keys over HTTP: created, cached, revoked, expired."""

from __future__ import annotations

import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from service.access import cache
from service.access.keys import revoke
from service.store.access import find_key
from service.store.errors import StoreUnavailable
from service.store.models import ApiKeyRow
from tests.access import OPERATOR, PASSWORD, bearer, make_account, make_key, problem_of
from tests.running_service import RunningService, Serve

ME = "/v1/access/me"
HELLO = '{"type": "hello"}'


@pytest.mark.slow
def test_service_without_keys_accepts_everything_until_the_first_key(serve: Serve) -> None:
    with serve() as service:
        assert service.client.get(ME).json()["kind"] == "local"
        assert service.client.get("/health/ready").json()["access"] == "local"
        body = {"name": "first", "scopes": ["inspect"]}
        created = service.client.post("/v1/access/keys", json=body).json()
        assert created["created_by"] == "local"
        assert problem_of(service.inspect()) == (401, "not-authenticated"), "at once"
        assert service.client.get("/health/ready").json()["access"] == "required"
        assert service.inspect(headers=bearer(created["key"])).status_code == 201


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["key", "account"])
def test_credential_created_by_another_process_is_required_within_a_second(serve: Serve, kind: str) -> None:
    with serve() as service:
        if kind == "key":
            key = make_key(service.store.engine, "inspect")
            assert service.inspect(headers=bearer(key)).status_code == 201, "accepted before it is required"
        else:
            make_account(service.store.engine, "kim")
        deadline = time.monotonic() + 1.0
        while service.inspect().status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_two_valid_keys_cannot_have_the_same_name(secured: RunningService) -> None:
    wanted = {"name": "cam 1", "scopes": ["inspect"], "products": ["widget", "wigdet"]}
    created = secured.client.post("/v1/access/keys", json=wanted).json()
    assert created["warnings"] == ["The model repository has no product 'wigdet'. Check the name, or add the product."]
    refused = secured.client.post("/v1/access/keys", json=wanted)
    assert problem_of(refused) == (409, "key-exists")
    assert refused.json()["key_id"] == created["id"]
    revoked = secured.client.post("/v1/access/keys/cam 1:revoke")
    assert revoked.json()["id"] == created["id"], "the name is accepted, too"
    assert secured.client.get(ME, headers=bearer(created["key"])).status_code == 401, "at once"
    again = secured.client.post("/v1/access/keys", json=wanted)
    assert again.status_code == 201
    assert secured.client.post("/v1/access/keys/cam 1:revoke").json()["id"] == again.json()["id"]


def test_name_of_several_keys_does_not_choose_one(secured: RunningService) -> None:
    one, two = (make_key(secured.store.engine, "review") for _ in range(2))
    refused = secured.client.post("/v1/access/keys/review:revoke")
    assert problem_of(refused) == (404, "unknown-key")
    assert one.record.id in refused.json()["detail"]
    assert two.record.id in refused.json()["detail"]


def test_advice_about_keys_that_were_valid_is_to_create_a_new_one(
    secured: RunningService, anonymous: httpx.Client
) -> None:
    engine = secured.store.engine
    revoked = make_key(engine, "inspect")
    secured.client.post(f"/v1/access/keys/{revoked.record.id}:revoke")
    soon = make_key(engine, "inspect", expires_at=datetime.now(UTC) + timedelta(seconds=0.2))
    time.sleep(0.25)
    for key, words in ((revoked.key, "was revoked"), (soon.key, "expired")):
        detail = anonymous.get(ME, headers=bearer(key)).json()["detail"]
        assert words in detail
        assert "missing characters" not in detail
        assert "plumbline key create" in detail
    wrong = anonymous.get(ME, headers=bearer(revoked.key[:-1])).json()["detail"]
    assert "missing characters" in wrong


def test_key_is_shown_once_and_stored_hashed(secured: RunningService, tmp_path: Path) -> None:
    response = secured.client.post("/v1/access/keys", json={"name": "cam", "scopes": ["inspect"]})
    key = response.json()["key"]
    assert response.headers["cache-control"] == "no-store"
    assert key not in secured.client.get("/v1/access/keys").text
    _, key_id, secret = key.split("_")
    assert len(secret) * 4 >= 256, "bits"
    make_account(secured.store.engine, "plain")
    session = httpx.post(f"{secured.client.base_url}/v1/access/login", json={"name": "plain", "password": PASSWORD})
    (token,) = session.cookies.values()
    record = find_key(secured.store.engine, key_id)
    assert record is not None
    assert record.secret_hash.startswith("$argon2id$")
    copy = sqlite3.connect(tmp_path / "copy.db")
    with sqlite3.connect(secured.settings.data / "plumbline.db") as database:
        database.backup(copy)
    content = "\n".join(copy.iterdump())
    copy.close()
    database.close()
    assert record.secret_hash in content
    for plain in (secret, PASSWORD, token, session.json()["csrf_token"]):
        assert plain not in content


def test_secrets_are_neither_logged_nor_part_of_a_representation(secured: RunningService) -> None:
    make_account(secured.store.engine, "quiet")
    with capture_logs() as log:
        key = secured.client.post("/v1/access/keys", json={"name": "q", "scopes": ["inspect"]}).json()["key"]
        secured.client.get("/v1/products", headers=bearer(key))
        secured.client.get("/v1/products", headers=bearer(key[:-1]))
        secured.client.post("/v1/access/login", json={"name": "quiet", "password": PASSWORD + "x"})
    assert key[:-1] not in str(log)
    assert PASSWORD not in str(log)
    record = find_key(secured.store.engine, key.split("_")[1])
    assert "argon2" not in repr(record)


@pytest.mark.parametrize("name", ["X-API-Key", "Authorization"])
def test_key_is_accepted_in_both_headers(secured: RunningService, anonymous: httpx.Client, name: str) -> None:
    key = make_key(secured.store.engine, "inspect").key
    value = key if name == "X-API-Key" else f"bearer  {key}"
    assert anonymous.get(ME, headers={name: value}).json()["name"] == "inspect"


def test_two_different_keys_are_refused(secured: RunningService, anonymous: httpx.Client) -> None:
    one, two = (make_key(secured.store.engine, "inspect").key for _ in range(2))
    assert anonymous.get(ME, headers=bearer(one) | {"x-api-key": one}).status_code == 200
    both = anonymous.get(ME, headers=bearer(one) | {"x-api-key": two})
    assert problem_of(both) == (400, "conflicting-credentials")
    twice = anonymous.get(ME, headers=[("x-api-key", one), ("x-api-key", two)])
    assert problem_of(twice) == (400, "conflicting-credentials")


def test_other_authorization_of_a_proxy_is_no_key(secured: RunningService, anonymous: httpx.Client) -> None:
    key = make_key(secured.store.engine, "inspect").key
    basic = {"authorization": "Basic a2ltOmtpbQ=="}
    assert anonymous.get(ME, headers=basic | {"x-api-key": key}).status_code == 200
    assert problem_of(anonymous.get(ME, headers=basic)) == (401, "not-authenticated")


def test_revoked_key_is_refused_at_once_with_the_reason(secured: RunningService, anonymous: httpx.Client) -> None:
    key = make_key(secured.store.engine, "inspect")
    assert anonymous.get(ME, headers=bearer(key)).status_code == 200
    revoked = secured.client.post(f"/v1/access/keys/{key.record.id}:revoke")
    assert revoked.json()["revoked_at"] is not None
    response = anonymous.get(ME, headers=bearer(key))
    assert problem_of(response) == (401, "invalid-key")
    assert "was revoked" in response.json()["detail"]
    wrong = anonymous.get(ME, headers=bearer(key.key[:-1] + "g")).json()["detail"]
    assert "revoked" not in wrong, "only the holder of the secret learns that"
    again = secured.client.post(f"/v1/access/keys/{key.record.id}:revoke")
    assert again.json() == revoked.json()
    assert problem_of(secured.client.post("/v1/access/keys/ghost:revoke")) == (404, "unknown-key")


def test_key_revoked_by_another_process_is_refused_within_a_second(
    secured: RunningService, anonymous: httpx.Client
) -> None:
    key = make_key(secured.store.engine, "inspect")
    assert anonymous.get(ME, headers=bearer(key)).status_code == 200
    revoke(secured.store.engine, key.record.id, OPERATOR)
    deadline = time.monotonic() + 1.0
    while anonymous.get(ME, headers=bearer(key)).status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_key_expires_at_its_time_although_it_is_cached(secured: RunningService, anonymous: httpx.Client) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=0.4)
    key = make_key(secured.store.engine, "inspect", expires_at=expires_at)
    assert anonymous.get(ME, headers=bearer(key)).status_code == 200
    time.sleep(max(0.0, (expires_at - datetime.now(UTC)).total_seconds()))
    response = anonymous.get(ME, headers=bearer(key))
    assert problem_of(response) == (401, "invalid-key")
    assert "expired" in response.json()["detail"]


@pytest.mark.slow
def test_revoking_the_last_key_does_not_open_the_service(serve: Serve) -> None:
    with serve() as service:
        key = service.client.post("/v1/access/keys", json={"name": "a", "scopes": ["admin"]}).json()
        assert service.client.post(f"/v1/access/keys/{key['id']}:revoke", headers=bearer(key["key"])).is_success
        assert service.inspect().status_code == 401
    with serve() as service:
        assert service.inspect().status_code == 401


def test_cached_key_costs_neither_argon2_nor_a_query(
    secured: RunningService, anonymous: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(secured.store.engine, "inspect")
    monkeypatch.setattr(cache, "FRESH_S", 60.0)
    assert anonymous.get(ME, headers=bearer(key)).status_code == 200

    def fail(*_: Any) -> None:
        raise AssertionError("the cached key was checked again")

    monkeypatch.setattr("service.access.keys.find_key", fail)
    monkeypatch.setattr("service.access.keys.verify", fail)
    assert anonymous.get(ME, headers=bearer(key)).status_code == 200


def test_row_is_read_again_but_the_secret_is_not_verified_again(
    secured: RunningService, anonymous: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(secured.store.engine, "inspect")
    assert anonymous.get(ME, headers=bearer(key)).status_code == 200
    monkeypatch.setattr(cache, "FRESH_S", -1.0)
    calls: list[object] = []
    monkeypatch.setattr("service.access.keys.verify", lambda *given: calls.append(given))
    with secured.store.engine.begin() as connection:
        connection.execute(update(ApiKeyRow).where(ApiKeyRow.id == key.record.id).values(scopes=["review"]))
    assert anonymous.get(ME, headers=bearer(key)).json()["scopes"] == ["review"], "a change takes effect"
    assert not calls


def test_known_key_is_accepted_while_the_database_cannot_be_read(
    secured: RunningService, anonymous: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, unknown = (make_key(secured.store.engine, "inspect") for _ in range(2))
    assert anonymous.get(ME, headers=bearer(known)).status_code == 200
    monkeypatch.setattr(cache, "FRESH_S", -1.0)

    def fail(*_: Any) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr("service.access.keys.find_key", fail)
    assert anonymous.get(ME, headers=bearer(known)).status_code == 200
    assert problem_of(anonymous.get(ME, headers=bearer(unknown))) == (503, "store-unavailable")


def test_use_of_a_key_is_recorded_once_a_minute(secured: RunningService, anonymous: httpx.Client) -> None:
    key = make_key(secured.store.engine, "inspect")
    anonymous.get(ME, headers=bearer(key))
    deadline = time.monotonic() + 5
    while (record := find_key(secured.store.engine, key.record.id)) is None or record.last_used_at is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    secured.app.state.access._key_uses._store(key.record.id)
    assert find_key(secured.store.engine, key.record.id) == record


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"scopes": ["admin"], "products": ["widget"]}, "without restriction"),
        ({"scopes": ["engineer"], "stations": ["a"]}, "apply to all stations"),
        ({"scopes": ["inspect"], "expires_at": "2020-01-01T00:00:00Z"}, "expired already"),
    ],
)
def test_contradictory_key_is_refused(secured: RunningService, wanted: dict[str, Any], words: str) -> None:
    response = secured.client.post("/v1/access/keys", json={"name": "x", **wanted})
    assert problem_of(response) == (422, "invalid-grant")
    assert words in response.json()["detail"]
