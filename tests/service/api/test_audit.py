"""The audit log over HTTP: who changed what, from where, with which effect."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from plumbline_client import Client, ServiceProblem
from service.access.cache import Identity
from service.access.principal import Principal
from service.api.http.access import AccessRule, rule_of
from service.api.routes import audit as audit_routes
from service.monitoring.metrics import Metrics
from service.serving.audit import AuditHeadReporter
from service.store.audit import GENESIS, AuditEntry, read_audit, record_change
from service.store.audit_chain import verify_chain
from service.store.store import Store
from tests.running_service import BAD, GOOD, RunningService, Serve
from tests.service.api.test_bundles import PRODUCT, WHO, activate, make_bundle, roll_back, upload
from tests.service.store.test_audit import ADA

RECIPE = f"{PRODUCT}/recipe"
ENGINEER = Principal("key", "k-1", "line-7", frozenset({"inspect", "engineer"}))
ADMIN = Principal("account", "a-1", "Grace", frozenset({"inspect", "review", "engineer", "admin"}))


@contextmanager
def signed_in(service: RunningService, principal: Principal) -> Iterator[None]:
    """Send every request of the block as this principal."""

    async def identify(*_: object) -> Identity:
        return Identity(principal, "", None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.api.http.access._identify", identify)
        yield


def entries(service: RunningService, **params: Any) -> list[dict[str, Any]]:
    with signed_in(service, ADMIN):
        response = service.client.get("/v1/audit", params=params)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["items"]
    return found


def change(service: RunningService, **values: Any) -> httpx.Response:
    return service.client.put(RECIPE, json={"reason": "dust", "regions": {"min_area_px": 9}} | values)


@pytest.mark.slow
def test_every_change_is_recorded_with_its_author_reason_and_origin(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first = make_bundle(models)
    second = make_bundle(tmp_path / "elsewhere", day=1)
    with serve(models=models) as service:
        client = service.client
        request = {"x-request-id": "request-7"}
        assert upload(service, second).status_code == 201
        assert upload(service, second).status_code == 200, "an upload that changes nothing"
        assert activate(service, second).status_code == 200
        assert client.post(f"{PRODUCT}/bundles/{first.version}:shadow", json=WHO).status_code == 200
        assert client.post(f"{PRODUCT}/bundles:stop-shadow", json=WHO).status_code == 200
        assert roll_back(service).status_code == 200
        assert client.put(RECIPE, json=WHO | {"regions": {"min_area_px": 9}}, headers=request).status_code == 200
        proposal = client.post(f"{PRODUCT}/thresholds:propose", json={"target_false_reject_rate": 0.05}).json()
        assert proposal["author"] == "local"
        applied = client.put(RECIPE, json=WHO | {"proposal_id": proposal["id"]})
        assert applied.status_code == 200, applied.text
        toml = client.get(RECIPE, headers={"accept": "application/toml"}).text
        imported = client.put(
            RECIPE,
            content=toml.replace("min_area_px = 9.0", "min_area_px = 7.0"),
            params={"author": "Eve", "reason": "as on line 1"},
            headers={"content-type": "application/toml"},
        )
        assert imported.status_code == 200, imported.text
        reverted = client.post(f"{RECIPE}/revisions/1:revert", json=WHO)
        assert reverted.status_code == 200, reverted.text
        refused = client.put(RECIPE, json=WHO | {"fail_threshold": 1, "review_threshold": 2})
        assert refused.status_code == 422

        found = entries(service)[::-1]
        assert [item["action"] for item in found] == [
            "recipe:derive", "bundle:keep", "bundle:upload",
            "recipe:derive", "bundle:activate", "shadow:start", "shadow:stop",
            "recipe:derive", "bundle:roll-back",
            "recipe:put", "proposal:apply", "recipe:import", "recipe:revert",
        ]  # fmt: skip
        by_action = {item["action"]: item for item in found}
        assert by_action["bundle:upload"]["object"] == second.version
        assert by_action["bundle:upload"]["after"] == {"bundle_digest": second.digest}
        assert by_action["bundle:activate"]["before"]["bundle_digest"] == first.digest
        assert by_action["bundle:activate"]["after"]["bundle_digest"] == second.digest
        assert by_action["bundle:roll-back"]["after"]["bundle_digest"] == first.digest
        assert by_action["shadow:stop"]["before"]["bundle_digest"] == first.digest
        put = by_action["recipe:put"]
        assert (put["actor"], put["note"], put["request_id"]) == (WHO["author"], WHO["reason"], "request-7")
        assert (put["actor_kind"], put["address"], put["product"]) == ("local", "127.0.0.1", "widget")
        assert put["before"]["recipe"] == {"regions.min_area_px": 0}
        assert put["after"]["recipe"] == {"regions.min_area_px": 9}
        assert by_action["proposal:apply"]["after"]["recipe"]["proposal_id"] == proposal["id"]
        assert (by_action["recipe:import"]["actor"], by_action["recipe:import"]["note"]) == ("Eve", "as on line 1")
        assert "Revert to revision 1" in by_action["recipe:revert"]["note"]
        assert by_action["bundle:keep"]["actor"] == "plumbline"
        assert verify_chain(read_audit(service.store.engine)).broken is None


@pytest.mark.slow
@pytest.mark.parametrize("stated", [{}, {"author": "Somebody Else"}])
def test_authenticated_name_is_recorded_whatever_the_request_states(
    serve: Serve, tmp_path: Path, stated: dict[str, str]
) -> None:
    models = tmp_path / "models"
    make_bundle(models)
    other = make_bundle(models, day=1)
    with serve(models=models) as service, signed_in(service, ENGINEER):
        client = service.client
        why = {"reason": "because"} | stated
        name = "line-7"
        assert change(service, **stated).json()["author"] == name
        assert client.post(f"{RECIPE}/revisions/1:revert", json=stated).json()["author"] == name
        toml = client.get(f"{RECIPE}/revisions/1", headers={"accept": "application/toml"}).text
        assert 'author = "plumbline"' in toml, "the author in the file is not that of the import"
        headers = {"content-type": "application/toml"}
        imported = client.put(RECIPE, content=toml, params={"reason": "x"} | stated, headers=headers)
        assert imported.json()["author"] == name
        task = {"target_false_reject_rate": 0.05} | stated
        assert client.post(f"{PRODUCT}/thresholds:propose", json=task).json()["author"] == name
        older = next(item["version"] for item in client.get(f"{PRODUCT}/bundles").json()["items"] if
                     item["version"] != other.version)  # fmt: skip
        for action in (f"/{older}:shadow", ":stop-shadow", f"/{older}:activate", ":rollback"):
            response = client.post(f"{PRODUCT}/bundles{action}", json=why)
            assert (response.status_code, response.json()["author"]) == (200, name)
        made = [item for item in entries(service) if item["actor_kind"] != "service"]
        assert {(item["actor_kind"], item["actor_id"], item["actor"]) for item in made} == {("key", "k-1", name)}


@pytest.mark.slow
def test_without_authentication_the_stated_author_is_recorded_or_local(serve: Serve) -> None:
    with serve() as service:
        assert change(service, author="Ada").json()["author"] == "Ada"
        assert change(service).json()["author"] == "local"
        assert change(service, author="plumbline").status_code == 422
        headers = {"content-type": "application/toml"}
        anonymous = service.client.put(RECIPE, content="[recipe]", params={"reason": "x"}, headers=headers)
        assert anonymous.json()["author"] == "local"
        assert service.client.put(RECIPE, json={"regions": {"min_area_px": 1}}).status_code == 422, "no reason"
        assert service.client.put(RECIPE, content="[recipe]", headers=headers).status_code == 422, "no reason"


def test_address_that_a_proxy_reports_is_recorded_and_cut(serve: Serve) -> None:
    with serve(insecure=True) as service:
        for address in ("10.1.2.3", "x" * 300):
            response = service.client.put(
                RECIPE, json={"reason": "x", "regions": {"max_count": 9}}, headers={"x-forwarded-for": address}
            )
            assert response.status_code == 200, response.text
        assert [item["address"] for item in entries(service)[:2]] == ["x" * 64, "10.1.2.3"]


@pytest.mark.slow
def test_log_is_read_page_by_page_with_filters(serve: Serve) -> None:
    with serve() as service:
        for number in range(5):
            change(service, author="Ada" if number % 2 else "Bob", regions={"min_area_px": number})
        assert [item["id"] for item in entries(service, limit=2)] == [6, 5]
        page = service.client.get("/v1/audit", params={"limit": 2}).json()
        assert [item["id"] for item in entries(service, limit=2, cursor=page["next_cursor"])] == [4, 3]
        assert [item["actor"] for item in entries(service, actor="Ada")] == ["Ada", "Ada"]
        assert [item["id"] for item in entries(service, action="recipe:derive")] == [1]
        assert entries(service, product="gadget") == []
        third = entries(service)[3]["created_at"]
        assert [item["id"] for item in entries(service, since=third)] == [6, 5, 4, 3]
        assert [item["id"] for item in entries(service, until=third)] == [2, 1]
        for wrong in ({"action": "recipe:eat"}, {"since": "2026-01-01T00:00:00"}, {"cursor": 0}, {"who": "x"}):
            assert service.client.get("/v1/audit", params=wrong).status_code == 422
        head = service.client.get("/v1/audit:head").json()
        assert head == {"id": 6, "hash": entries(service)[0]["hash"]}

        with Client(f"http://127.0.0.1:{service.port}") as plumbline:
            assert plumbline.audit_head().hash == head["hash"]
            assert [item.id for item in plumbline.audit_entries()] == [6, 5, 4, 3, 2, 1]
            assert [item.id for item in plumbline.audit_page(actor="Bob", limit=1).items] == [6]


@pytest.mark.slow
def test_csv_contains_no_formula(serve: Serve) -> None:
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://evil")']
    with serve() as service:
        for text in formulas:
            change(service, author=text, reason=text)
        csv_page = {"accept": "text/csv"}
        response = service.client.get("/v1/audit", params={"limit": 5}, headers=csv_page)
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
        guarded = [f"'{text}" for text in reversed(formulas)]
        assert [row["actor"] for row in rows] == [row["note"] for row in rows] == guarded
        assert json.loads(rows[-1]["after"])["recipe"] == {"regions.min_area_px": 9}
        following = response.links["next"]["url"]
        assert service.client.get(following, headers=csv_page).text.count("\r\n") == 2, "the names and entry 1"
        assert service.client.get("/v1/audit", headers={"accept": "image/png"}).status_code == 406


def test_reading_the_log_needs_the_scope_admin() -> None:
    endpoints = [route.endpoint for route in audit_routes.router.routes]  # type: ignore[attr-defined]
    listed, whole = AccessRule("admin", filters=True), AccessRule("admin")
    expected = [listed, whole, whole, listed]
    assert [rule_of(endpoint) for endpoint in endpoints] == expected


def test_newest_hash_is_logged_and_a_removed_end_is_reported(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'plumbline.db'}", tmp_path / "data")
    metrics = Metrics()
    reporter = AuditHeadReporter(store.engine, metrics, 600)
    with capture_logs() as logs:
        reporter.report()
        records = [record_change(store.engine, AuditEntry(ADA, "key:create")) for _ in range(3)]
        reporter.report()
        reporter.report()
        with store.engine.begin() as connection:
            for trigger in ("no_update", "no_delete"):
                connection.exec_driver_sql(f"DROP TRIGGER audit_log_{trigger}")
            connection.exec_driver_sql("DELETE FROM audit_log WHERE id = 3")
        reporter.report()
        reporter.report()
    store.close()
    heads = [entry["head"] for entry in logs if entry["event"] == "audit log"]
    assert heads == [GENESIS, records[2].hash, records[2].hash, records[1].hash, records[1].hash]
    (error,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert (error["entry"], error["expected_hash"]) == (3, records[2].hash)
    exposed = metrics.expose().decode()
    assert "inspection_audit_entries 2.0" in exposed
    assert "inspection_audit_violations_total 1.0" in exposed


@pytest.mark.slow
def test_running_service_reports_the_newest_hash_periodically(serve: Serve) -> None:
    with serve(audit_head_interval_s=0.05) as service:
        deadline = time.monotonic() + 20
        while "inspection_audit_entries 2.0" not in service.client.get("/metrics").text:
            change(service) if len(entries(service)) < 2 else None
            assert time.monotonic() < deadline


RETENTION = {"pass": {"count": 1}}
TOML_RETENTION = "[recipe.retention.pass]\ncount = 1\n"


def put_json(service: RunningService, confirm: dict[str, int]) -> httpx.Response:
    return change(service, retention=RETENTION, **confirm)


def put_toml(service: RunningService, confirm: dict[str, int]) -> httpx.Response:
    headers = {"content-type": "application/toml"}
    return service.client.put(RECIPE, content=TOML_RETENTION, params={"reason": "x", **confirm}, headers=headers)


def apply_proposal(service: RunningService, confirm: dict[str, int]) -> httpx.Response:
    task = {"target_false_reject_rate": 0.05}
    proposal = service.client.post(f"{PRODUCT}/thresholds:propose", json=task).json()["id"]
    body = {"reason": "x", "proposal_id": proposal, "retention": RETENTION}
    return service.client.put(RECIPE, json=body | confirm)


def revert(service: RunningService, confirm: dict[str, int]) -> httpx.Response:
    return service.client.post(f"{RECIPE}/revisions/2:revert", json=confirm)


@pytest.mark.slow
@pytest.mark.parametrize("way", [put_json, put_toml, apply_proposal, revert])
def test_policy_that_removes_most_images_needs_an_admin_and_a_confirmation(serve: Serve, way: Any) -> None:
    with serve() as service:
        # Revision 2 has the policy, which removed nothing when there were no images; revision 3 has none.
        assert change(service, retention=RETENTION).status_code == 200
        assert change(service, retention={"pass": None}).status_code == 200
        for _ in range(3):
            service.inspect(GOOD)
        service.inspect(BAD)
        for principal, confirm in ((ENGINEER, {}), (ENGINEER, {"confirm_removal": 2}), (ADMIN, {}),
                                   (ADMIN, {"confirm_removal": 1})):  # fmt: skip
            with signed_in(service, principal):
                response = way(service, confirm)
            problem = response.json()
            assert (response.status_code, problem["type"]) == (409, "/problems#removal-not-confirmed")
            assert (problem["removed"], problem["kept"]) == (2, 2)
            assert problem["by_decision"]["pass"] == {"removed": 2, "kept": 1}
            assert service.client.get(RECIPE).json()["revision"] == 3
        with signed_in(service, ADMIN):
            assert way(service, {"confirm_removal": 2}).status_code == 200
        assert service.client.get(RECIPE).json()["recipe"]["retention"] == {"pass": {"days": None, "count": 1}}
        newest = entries(service, action="retention:change")[0]
        assert (newest["actor"], newest["after"]["confirm_removal"]) == ("Grace", 2)


@pytest.mark.slow
def test_activation_keeps_the_policy_in_force(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first = make_bundle(models)
    second = make_bundle(tmp_path / "other", day=1)
    with serve(models=models) as service, signed_in(service, ENGINEER):
        assert change(service, retention=RETENTION).status_code == 200, "made for the first bundle"
        upload(service, second)
        activate(service, second)
        change(service, retention={"pass": None})
        for _ in range(3):
            service.inspect(GOOD)
        # The recipe of the first bundle had the policy. Its activation must not bring it back.
        assert activate(service, first).status_code == 200
        assert service.client.get(RECIPE).json()["recipe"]["retention"] == {}
        body: dict[str, Any] = {**WHO, "confirm_removal": 3}
        assert service.client.post(f"{PRODUCT}/bundles:rollback", json=body).status_code == 200


@pytest.mark.slow
def test_client_confirms_a_removal(serve: Serve) -> None:
    with serve() as service, Client(f"http://127.0.0.1:{service.port}") as plumbline:
        for _ in range(3):
            service.inspect(GOOD)
        with pytest.raises(ServiceProblem, match="confirm_removal=2") as caught:
            plumbline.change_recipe("widget", reason="x", parts={"retention": RETENTION})
        assert caught.value.problem["removed"] == 2
        plumbline.change_recipe("widget", reason="x", parts={"retention": RETENTION}, confirm_removal=2)
        plumbline.change_recipe("widget", reason="x", parts={"retention": {"pass": None}})
        plumbline.revert_recipe("widget", 2, confirm_removal=2)
        plumbline.change_recipe("widget", reason="x", parts={"retention": {"pass": None}})
        assert plumbline.import_recipe("widget", TOML_RETENTION, reason="x", confirm_removal=2).author == "local"
