"""Attacks by keys that are restricted to a product or a station."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from service.store.records import ShadowRecord
from service.store.shadows import add_shadow_verdicts, paired_verdicts
from tests.access import problem_of
from tests.running_service import GOOD, INSPECT
from tests.service.security.conftest import PNG, Target

IMAGE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(GOOD).decode()]}


def infer(target: Target, key: str, product: str = "widget", **parameters: Any) -> httpx.Response:
    body = {"inputs": [IMAGE], "outputs": [{"name": "decision"}], "parameters": parameters}
    return target.client.post(f"/v2/models/{product}/infer", json=body, headers=target.keys[key])


@pytest.mark.parametrize(
    "suffix",
    ["", "/heatmap", "/map", "/image", "/image?format=png", "/reviews", ":replay", ":review", ":undo-review"],
)
def test_inspection_of_another_product_is_unknown(target: Target, suffix: str) -> None:
    method = "POST" if suffix.startswith(":") else "GET"
    path = f"/v1/inspections/{target.foreign}{suffix}"
    for spelled in (path, path.replace(target.foreign, target.foreign.upper())):
        body = {"label": "good"} if suffix == ":review" else None
        refused = target.client.request(method, spelled, json=body, headers=target.keys["gadget"])
        assert problem_of(refused) == (404, "unknown-inspection")


@pytest.mark.parametrize(
    "identifier", ["' OR 1=1 --", "..%2f..%2fplumbline.db", "%00", "{0}", "9" * 60, "urn:uuid:x", "%2e%2e"]
)
def test_forged_id_finds_nothing(target: Target, identifier: str) -> None:
    response = target.client.get(f"/v1/inspections/{identifier}/image", headers=target.keys["inspect"])
    # An id with a control character is refused before it is looked up.
    assert response.status_code == (422 if identifier == "%00" else 404)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "product",
    ["widget", "Gadget", "gadget%20", "g\u0430dget", "gadget%00", "gadget/../widget", "*", "%2e%2e",
     "gadget%2f..%2fwidget"],
)  # fmt: skip
def test_other_spelling_of_a_product_is_not_permitted(target: Target, product: str) -> None:
    for path in ("", "/recipe", "/bundles", "/proposals"):
        response = target.client.get(f"/v1/products/{product}{path}", headers=target.keys["gadget"])
        assert response.status_code in {403, 404}
        assert "digest" not in response.text


@pytest.mark.parametrize(
    "query",
    [
        "product=widget", "product=WIDGET", "product=gadget&product=widget", "decision=pass' OR 1=1--",
        "part_id=x' OR '1'='1", "part_id=%00", "part_id=%ff", "cursor=0 OR 1", "limit=99999999999999999999",
        "limit=-1", "limit=%D9%A1", "permitted_products=widget", "decision[]=pass",
    ],
)  # fmt: skip
def test_filter_does_not_widen_what_a_key_sees(target: Target, query: str) -> None:
    response = target.client.get(f"/v1/inspections?{query}", headers=target.keys["gadget"])
    assert response.status_code in {200, 403, 422}
    assert target.foreign not in response.text


def test_forged_cursor_shows_nothing_of_other_products(target: Target) -> None:
    highest = "ffffffff-ffff-7fff-bfff-ffffffffffff"
    for key in ("gadget", "station"):
        listed = target.client.get("/v1/inspections", params={"cursor": highest}, headers=target.keys[key])
        assert target.foreign not in listed.text
        assert listed.status_code == 200


@pytest.mark.parametrize("station", ["a1", "A1 ", " A1", "\uff211", "A1\u200b", "B2", "A1\x00", "", "A1,B2"])
def test_other_station_is_refused_in_every_interface(target: Target, station: str) -> None:
    headers = target.keys["station"]
    statuses = [
        target.client.post(INSPECT, content=GOOD, headers=headers | PNG, params={"station": station}),
        target.client.post(INSPECT, headers=headers, files={"image": GOOD}, data={"station": station}),
        target.client.post(f"{INSPECT}:batch", headers=headers, files={"image": GOOD}, params={"station": station}),
        infer(target, "station", station=station),
    ]
    assert {response.status_code for response in statuses} <= {400, 403, 422}
    with connect(
        f"ws://127.0.0.1:{target.service.port}/v1/products/widget/stream", additional_headers=headers
    ) as stream:
        stream.send(json.dumps({"type": "hello", "part": {"station": station}}))
        stream.recv()
        if station.strip("\x00") == station and station:
            stream.send(GOOD)
            assert "not-permitted" in str(stream.recv())


def test_frame_cannot_leave_the_station_out(target: Target) -> None:
    with connect(
        f"ws://127.0.0.1:{target.service.port}/v1/products/widget/stream", additional_headers=target.keys["station"]
    ) as stream:
        stream.send(json.dumps({"type": "hello", "part": {"station": "B2"}}))
        stream.recv()
        stream.send(json.dumps({"type": "frame", "part": {"station": None}}))
        stream.send(GOOD)
        assert '"station":"A1"' in str(stream.recv())


def test_idempotency_key_of_another_principal_returns_nothing_of_it(target: Target) -> None:
    sent = [
        target.client.post(INSPECT, content=GOOD, headers=target.keys[key] | PNG | {"idempotency-key": "shared"})
        for key in ("station", "inspect")
    ]
    assert [response.status_code for response in sent] == [201, 201]
    assert sent[0].json()["id"] != sent[1].json()["id"]
    assert "idempotency-replayed" not in sent[1].headers


def test_other_product_is_refused_by_the_open_inference_protocol(target: Target) -> None:
    assert infer(target, "gadget").status_code == 403
    assert infer(target, "station", station="A1").status_code == 200


def test_proposal_uses_no_inspections_and_no_proposal_of_another_product(target: Target) -> None:
    key = target.keys["gadget"]
    path = "/v1/products/gadget"
    selection = {"ids": [target.foreign], "declared_good": True}
    body = {"target_false_reject_rate": 0.2, "inspections": selection}
    refused = target.client.post(f"{path}/thresholds:propose", json=body, headers=key)
    assert refused.status_code in {404, 422}
    made = target.client.post(
        "/v1/products/widget/thresholds:propose",
        json={"target_false_reject_rate": 0.2},
        headers=target.keys["engineer"],
    )
    foreign = made.json()["id"]
    assert problem_of(target.client.get(f"{path}/proposals/{foreign}", headers=key)) == (404, "unknown-proposal")
    changed = target.client.put(f"{path}/recipe", json={"proposal_id": foreign, "reason": "mine"}, headers=key)
    assert changed.status_code == 404, changed.text
    refused = target.client.get(f"/v1/products/widget/proposals/{foreign}", headers=target.keys["station"])
    assert problem_of(refused) == (403, "not-permitted"), "it names inspections of all stations"


def test_comparison_contains_no_inspection_of_another_station(target: Target) -> None:
    engine = target.service.store.engine
    record = target.client.get(f"/v1/inspections/{target.foreign}", headers=target.keys["inspect"]).json()
    active, shadow = record["bundle"]["version"], "0" * 12
    verdict = ShadowRecord(
        inspection_id=target.foreign, bundle_digest=shadow, bundle_version=shadow, decision="fail", score=1.0,
        p_value=0.5, fail_threshold=0.9, review_threshold=0.8, provider="cpu", infer_ms=1.0,
    )  # fmt: skip
    add_shadow_verdicts(engine, [verdict])
    assert len(paired_verdicts(engine, "widget", active, shadow, 10)) == 1
    assert not paired_verdicts(engine, "widget", active, shadow, 10, {"A1"})
    path = f"/v1/products/widget/bundles:compare?active={active}&shadow={shadow}"
    found = {key: target.client.get(path, headers=target.keys[key]).json() for key in ("inspect", "station")}
    assert (found["inspect"]["pairs"], found["station"]["pairs"]) == (1, 0)
    assert target.foreign not in json.dumps(found["station"])


@pytest.mark.parametrize("key", ["gadget", "station"])
def test_summary_and_export_contain_what_the_key_permits(target: Target, key: str) -> None:
    headers = target.keys[key]
    for query in ("", "product=widget", "station=B2", "product=widget&station=B2"):
        listed = target.client.get(f"/v1/inspections:export?{query}&format=csv", headers=headers)
        counted = target.client.get(f"/v1/inspections:summary?{query}&by=station", headers=headers)
        assert {listed.status_code, counted.status_code} <= {200, 403}
        assert target.foreign not in listed.text
        if counted.status_code == 200:
            assert "B2" not in {group["name"] for group in counted.json()["groups"]}


@pytest.mark.parametrize("report", ["queue", "kinds", "agreement", "rates", "export"])
@pytest.mark.parametrize("product", ["widget", "Gadget", "gadget ", "ghost"])
def test_reports_about_reviews_of_another_product_are_refused(target: Target, report: str, product: str) -> None:
    path, params = f"/v1/reviews:{report}", {"product": product}
    assert problem_of(target.client.get(path, params=params, headers=target.keys["gadget"])) == (403, "not-permitted")


def test_reports_about_reviews_contain_nothing_of_another_station(target: Target) -> None:
    def read(report: str, **params: str) -> httpx.Response:
        query = {"product": "widget", "since": "2026-01-01T00:00:00Z"} | params
        if report in {"kinds", "agreement"}:
            del query["since"]
        return target.client.get(f"/v1/reviews:{report}", params=query, headers=target.keys["station"])

    def counts() -> tuple[object, ...]:
        rates, agreement = read("rates").json(), read("agreement").json()
        return read("queue").json()["total"], rates["inspections"], agreement["reviewers"]

    before = counts()
    body = {"label": "defect", "kind": "secret"}
    path = f"/v1/inspections/{target.foreign}:review"
    assert target.client.post(path, json=body, headers=target.keys["reviewer"]).status_code == 201
    assert problem_of(target.client.post(path, json=body, headers=target.keys["station"])) == (
        404,
        "unknown-inspection",
    )
    texts = [read(report).text for report in ("queue", "kinds", "agreement", "rates")]
    for text in texts:
        assert target.foreign not in text
        assert "secret" not in text
    assert counts() == before
    assert before[2] == []
    assert problem_of(read("export")) == (422, "invalid-request")
    assert problem_of(read("queue", station="B2")) == (422, "invalid-request"), "the station cannot be chosen"


@pytest.mark.parametrize("path", ["/metrics", "/v1/outbox", "/v1/outbox/dead-letters", "/v1/audit", "/v1/access/keys"])
@pytest.mark.parametrize("key", ["gadget", "station"])
def test_endpoint_about_everything_is_refused(target: Target, key: str, path: str) -> None:
    assert target.client.get(path, headers=target.keys[key]).status_code == 403


@pytest.mark.parametrize(
    "product", ["%2e%2e", "a%00b", "a%0d%0aX:%20y", "%ef%bd%97idget", "a" * 65, ".hidden", "a%20b", "CON", "-rf"]
)
def test_uploaded_bundle_cannot_choose_a_folder(target: Target, product: str) -> None:
    models = target.service.settings.models
    before = sorted(models.iterdir())
    response = target.client.post(
        f"/v1/products/{product}/bundles?create_product=true",
        content=b"PK",
        headers=target.keys["engineer"] | {"content-type": "application/zip"},
    )
    assert problem_of(response) == (422, "invalid-request")
    assert sorted(models.iterdir()) == before
    assert not Path(models.parent / "model.onnx").exists()
