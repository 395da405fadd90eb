"""The audit log of keys, sessions and log-ins, and who may read it."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from service.access import failed_logins
from service.access.failed_logins import PER_MINUTE, UNKNOWN, FailedLogins
from service.access.principal import Principal
from service.store.access import list_keys
from service.store.audit import Actor, AuditEntry, AuditFilter, AuditRecord, list_audit, record_change
from service.store.errors import StoreUnavailable
from tests.access import OPERATOR, PASSWORD, log_in, make_account, make_key
from tests.running_service import RunningService, Serve
from tests.service.api.test_audit import ADMIN, signed_in

SENDER = Actor("anonymous", "anonymous", "anonymous", "192.0.2.7", "r-1")


def audited(service: RunningService, action: Any) -> list[AuditRecord]:
    return list(list_audit(service.store.engine, AuditFilter(action=action)))


def wait_for_entries(service: RunningService, action: Any, count: int) -> list[AuditRecord]:
    """Return the entries as soon as there are enough: failed log-ins are recorded after the response."""
    deadline = time.monotonic() + 5
    while len(found := audited(service, action)) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def test_keys_are_recorded_once_and_without_their_secret(secured: RunningService) -> None:
    body = {"name": "cam", "scopes": ["inspect"], "products": ["widget"]}
    created = secured.client.post("/v1/access/keys", json=body, headers={"x-request-id": "r-9"}).json()
    for _ in range(2):
        secured.client.post(f"/v1/access/keys/{created['id']}:revoke")
    create = next(entry for entry in audited(secured, "key:create") if entry.object == created["id"])
    assert (create.actor, create.address, create.request_id) == ("root", "127.0.0.1", "r-9")
    assert create.after == {**body, "stations": None, "expires_at": None}
    (revoked,) = [entry for entry in audited(secured, "key:revoke") if entry.object == created["id"]]
    assert revoked.before == create.after
    record = next(one for one in list_keys(secured.store.engine) if one.id == created["id"])
    log = str(list_audit(secured.store.engine, AuditFilter()))
    assert created["key"].rpartition("_")[2] not in log
    assert record.secret_hash not in log


@pytest.mark.parametrize("change", ["create", "revoke"])
def test_key_is_not_changed_if_it_cannot_be_recorded(
    secured: RunningService, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(secured.store.engine, "inspect")
    before = list_keys(secured.store.engine)

    def fail(*_: object) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr("service.store.access.append_audit", fail)
    if change == "create":
        response = secured.client.post("/v1/access/keys", json={"name": "x", "scopes": ["inspect"]})
    else:
        response = secured.client.post(f"/v1/access/keys/{key.record.id}:revoke")
    assert response.status_code == 503
    now = {record.id: record.revoked_at for record in list_keys(secured.store.engine)}
    assert now == {record.id: record.revoked_at for record in before}


@pytest.mark.slow
def test_log_ins_are_recorded(serve: Serve) -> None:
    with serve(login_attempts=100) as service:
        make_account(service.store.engine, "Kim")
        for name in ("kim", "hunter2-is-my-password"):
            service.client.post("/v1/access/login", json={"name": name, "password": "wrong password"})
        headers = log_in(service, "KIM")
        assert service.client.post("/v1/access/logout-everywhere", headers=headers).status_code == 204
        failed = wait_for_entries(service, "session:log-in-failed", 2)
        assert {entry.object for entry in failed} == {"Kim", UNKNOWN}
        assert {(entry.actor_kind, entry.actor, entry.address) for entry in failed} == {
            ("anonymous", "anonymous", "127.0.0.1")
        }
        (succeeded,) = audited(service, "session:log-in")
        assert (succeeded.actor_kind, succeeded.actor, succeeded.address) == ("account", "Kim", "127.0.0.1")
        (everywhere,) = audited(service, "session:log-out-everywhere")
        assert (everywhere.actor, everywhere.after) == ("Kim", {"ended_sessions": 1})
        log = str(list_audit(service.store.engine, AuditFilter()))
        assert not any(secret in log for secret in ("hunter2", "wrong password", PASSWORD, headers["x-csrf-token"]))


def test_failed_log_ins_cannot_flood_the_log(secured: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    make_account(secured.store.engine, "flood")
    now = 0.0
    recorder = FailedLogins(secured.store.engine, lambda: now)
    before = len(audited(secured, "session:log-in-failed"))
    for number in range(PER_MINUTE + 7):
        recorder.record("FLOOD", SENDER)
        recorder.record(f"name-{number}", SENDER)
    found = audited(secured, "session:log-in-failed")
    assert len(found) - before == 2 * PER_MINUTE
    now = 61.0
    recorder.record("flood", SENDER)
    newest = audited(secured, "session:log-in-failed")[0]
    assert (newest.object, newest.after["not_recorded"]) == ("flood", 7)
    assert set(recorder._recorded) == {"flood", UNKNOWN}, "the memory is bounded by the number of accounts"

    def fail(engine: Engine, _: str) -> None:
        raise StoreUnavailable("it is locked")

    monkeypatch.setattr(failed_logins, "find_account", fail)
    recorder.record("flood", SENDER)  # raises nothing


@pytest.mark.slow
@pytest.mark.parametrize("insecure", [True, False])
def test_start_without_access_control_is_recorded(serve: Serve, insecure: bool) -> None:
    with serve(insecure=insecure) as service:
        found = audited(service, "service:insecure-start")
        assert [(entry.actor_kind, entry.after) for entry in found] == (
            [("service", {"host": "127.0.0.1"})] if insecure else []
        )


@pytest.mark.slow
def test_start_without_access_control_is_recorded_as_soon_as_the_database_can(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.access import control

    calls = []

    def fail_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise StoreUnavailable("it is locked")
        return record_change(*arguments)

    monkeypatch.setattr(control, "record_change", fail_once)
    monkeypatch.setattr(control, "POLL_S", 0.01)
    with serve(insecure=True) as service:
        wait_for_entries(service, "service:insecure-start", 1)
    assert len(calls) == 2


@pytest.mark.slow
def test_restricted_principal_reads_the_entries_of_its_products_only(serve: Serve) -> None:
    with serve() as service:
        engine = service.store.engine
        for product in ("widget", "gadget", None):
            record_change(engine, AuditEntry(OPERATOR, "recipe:put", product=product))

        def read(products: set[str] | None, stations: set[str] | None = None, **request: Any) -> httpx.Response:
            permitted = [None if names is None else frozenset(names) for names in (products, stations)]
            with signed_in(service, Principal("key", "k", "k", ADMIN.scopes, *permitted)):
                return service.client.get("/v1/audit", **request)

        def products_of(response: httpx.Response) -> set[str | None]:
            return {entry["product"] for entry in response.json()["items"]}

        assert products_of(read(None)) == {"widget", "gadget", None}
        assert products_of(read({"gadget"})) == {"gadget"}
        assert products_of(read({"gadget"}, params={"product": "widget"})) == set()
        export = read({"gadget"}, headers={"accept": "text/csv"}).text
        assert ("gadget" in export, "widget" in export) == (True, False)
        assert read({"widget"}, {"A2"}).status_code == 403, "changes apply to all stations"
        assert read(None, {"A2"}).status_code == 403
        with signed_in(service, Principal("key", "k", "k", ADMIN.scopes, frozenset({"widget"}))):
            assert service.client.get("/v1/audit:head").status_code == 403
