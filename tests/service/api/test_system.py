"""GET /v1/system: what it states, and that it discloses no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.serving.system import changed_settings
from service.settings import Settings
from tests.access import bearer, make_key
from tests.running_service import BAD, GOOD, RunningService, Serve


def test_state_is_complete(service: RunningService) -> None:
    for _ in range(20):
        assert service.inspect(GOOD).status_code == 201
    assert service.inspect(BAD).status_code == 201
    assert service.inspect(b"no image").status_code == 415
    state = service.client.get("/v1/system").json()
    assert state["readiness"]["status"] == "ready"
    assert state["queue"]["limit"] == service.settings.queue_limit
    recent = state["recent"]
    assert recent["inspections"] == 21
    assert recent["decisions"] == {"pass": 20, "fail": 1}
    durations = recent["durations"]
    assert 0 < durations["p50_ms"] <= durations["p95_ms"] <= durations["longest_ms"]
    assert durations["p99_ms"] is None
    (product,) = state["products"]
    assert (product["product"], product["provider"], product["status"]) == ("widget", "cpu", "ready")
    assert 0 <= product["parity"]["self_test"] <= product["parity"]["tolerance"]
    assert product["recent"]["inspections"] == 21
    assert 0 < state["memory"]["resident"] < state["memory"]["limit"]
    assert state["memory"]["bodies_limit"] == service.settings.max_inflight_body_bytes
    assert [disk["folder"] for disk in state["disks"]] == ["data", "models"]
    assert all(0 < disk["free_bytes"] <= disk["total_bytes"] for disk in state["disks"])
    error = state["errors"][0]
    assert (error["problem"], error["status"], error["method"]) == ("not-an-image", 415, "POST")
    assert state["error_totals"]["not-an-image"] == 1
    assert state["sinks"] == []
    assert isinstance(state["log"], list)
    assert {"plumbline", "python", "onnxruntime"} <= state["versions"].keys()
    assert {"name": "PLUMBLINE_MAX_BODY_BYTES", "value": "100000"} in state["settings"]
    assert str(service.settings.data) not in json.dumps(state), "folders of the server are named, not shown"


def test_secrets_are_hidden(tmp_path: Path) -> None:
    settings = Settings(
        models=tmp_path / "models",
        data=tmp_path / "data",
        database_url="postgresql+psycopg://ada:secret1@db.example/plumbline?sslmode=require",
        opcua_endpoint="opc.tcp://127.0.0.1:4840",
        opcua_user="ada",
        opcua_password=SecretStr("secret2"),
        otel_endpoint="https://ada:secret3@otel.example:4318/v1?token=secret4",
        s3_endpoint_url="https://ada:secret5@s3.example",
        required_products=frozenset({"nut", "bolt"}),
    )
    found = {one.name: one.value for one in changed_settings(settings)}
    assert not re.search(r"secret\d", json.dumps(found))
    assert found["PLUMBLINE_DATABASE_URL"] == "postgresql+psycopg://(hidden)"
    assert found["PLUMBLINE_OPCUA_PASSWORD"] == "(hidden)"
    assert found["PLUMBLINE_OTEL_ENDPOINT"] == "https://otel.example:4318/v1"
    assert found["PLUMBLINE_REQUIRED_PRODUCTS"] == "bolt, nut"
    assert "PLUMBLINE_PORT" not in found


def test_engineer_reads_the_state_and_others_do_not(serve: Serve) -> None:
    with serve() as service:
        keys = {scope: make_key(service.store.engine, scope) for scope in ("inspect", "engineer")}
        restricted = make_key(service.store.engine, "engineer", products=["widget"])
        service.app.state.access._require("test")
        assert service.client.get("/v1/system", headers=bearer(keys["inspect"])).status_code == 403
        assert service.client.get("/v1/system", headers=bearer(restricted)).status_code == 403
        assert service.client.get("/v1/system", headers=bearer(keys["engineer"])).status_code == 200


def test_state_is_reported_while_the_database_fails(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.store.errors import StoreUnavailable

    def fail() -> None:
        raise StoreUnavailable("test")

    monkeypatch.setattr(service.services.outbox, "summary", fail)
    assert service.client.get("/v1/system").json()["sinks"] is None


def test_audit_log_is_verified_and_exported(serve: Serve) -> None:
    with serve() as service:
        for minimum in range(3):
            recipe = {"author": "ada", "reason": f"=test {minimum}", "quality": {"min_brightness": minimum}}
            assert service.client.put("/v1/products/widget/recipe", json=recipe).is_success
        report = service.client.get("/v1/audit:verify").json()
        entries = service.client.get("/v1/audit").json()["items"]
        assert report == {"intact": True, "entries": len(entries), "head": entries[0]["hash"], "broken": None}
        exported = service.client.get("/v1/audit:export")
        assert "audit.jsonl" in exported.headers["content-disposition"]
        lines = [json.loads(line) for line in exported.text.splitlines()]
        assert [line["id"] for line in lines] == [entry["id"] for entry in reversed(entries)]
        table = service.client.get("/v1/audit:export", params={"format": "csv", "action": "recipe:put"}).text
        assert len(table.splitlines()) == 4
        assert "'=test 2" in table
        with service.store.engine.begin() as connection:
            triggers = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars()
            for name in list(triggers):
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
            connection.exec_driver_sql("UPDATE audit_log SET note = 'changed' WHERE id = 2")
        report = service.client.get("/v1/audit:verify").json()
        assert (report["intact"], report["entries"], report["broken"]["id"]) == (False, 1, 2)


def test_one_reader_of_the_whole_audit_log_at_a_time(service: RunningService) -> None:
    with service.services.audit.reading_everything():
        for path in ("/v1/audit:verify", "/v1/audit:export"):
            response = service.client.get(path)
            assert (response.status_code, response.json()["type"].partition("#")[2]) == (503, "records-busy")
    assert service.client.get("/v1/audit:export").status_code == 200
    assert service.client.get("/v1/audit:verify").status_code == 200
