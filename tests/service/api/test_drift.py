"""Drift over HTTP: the guarantee is suspended, shown everywhere, and restored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import delete, select, update
from structlog.testing import capture_logs

from service.serving.drift import monitor, tracker
from service.store.errors import StoreUnavailable
from service.store.models import DriftPositionRow, DriftStreamRow
from service.store.session import reading
from tests.access import bearer, make_key
from tests.bundles import SCORES, part, write_tiny_bundle
from tests.running_service import RunningService, encode, run_service
from tests.service.api.test_health import value

DRIFT = "/v1/products/widget/drift"
ACKNOWLEDGE = f"{DRIFT}:acknowledge"
RECIPE = "/v1/products/widget/recipe"
SIGNED = {"author": "Ada", "reason": "light source replaced"}
WAIT_S = 15.0
PNG = {"content-type": "image/png"}


def levels(count: int, low: int, high: int, seed: int = 0) -> list[bytes]:
    """Return different gray parts. The score of a level is its distance from the middle: 131 to 142 are usual."""
    rng = np.random.default_rng(seed)
    images = []
    for level in rng.integers(low, high, count).tolist():
        image = part(brightness=int(level))
        image[:2, :16] += rng.integers(0, 2, (2, 16, 3), np.uint8)  # so that no image repeats another
        images.append(encode(image))
    return images


def send(service: RunningService, images: list[bytes], station: str | None = None) -> list[dict[str, Any]]:
    params = {} if station is None else {"station": station}
    found = []
    for image in images:
        response = service.client.post("/v1/products/widget/inspections", content=image, headers=PNG, params=params)
        assert response.status_code == 201, response.text
        found.append(response.json())
    return found


def report(service: RunningService) -> dict[str, Any]:
    response = service.client.get(DRIFT)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def eventually(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not check():
        assert time.monotonic() < deadline, "the state was not reached"
        time.sleep(0.05)


def guarantee(service: RunningService) -> str:
    found: str = service.client.get(RECIPE).json()["recipe"]["guarantee"]
    return found


def counted(service: RunningService, kind: str = "reject_rate", station: str = "") -> int:
    row = DriftStreamRow
    query = select(row.count).where(row.product == "widget", row.kind == kind, row.station == station)
    with reading(service.store.engine) as session:
        return session.scalar(query) or 0


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "POLL_S", 0.1)
    monkeypatch.setattr(tracker, "FLUSH_S", 0.2)


@pytest.fixture
def service(tiny_models: Path, tmp_path: Path, database_url: str) -> Iterator[RunningService]:
    with run_service(tiny_models, tmp_path / "data", database_url=database_url) as running:
        yield running


def is_suspended(service: RunningService) -> bool:
    return value(service, "inspection_guarantee_suspended", product="widget") == 1


def suspend(service: RunningService) -> None:
    send(service, levels(25, 142, 143))
    eventually(lambda: guarantee(service) == "suspended")


def test_drift_suspends_the_guarantee_until_it_is_acknowledged(service: RunningService) -> None:
    (first,) = send(service, levels(1, 131, 132))
    assert (first["thresholds"]["certified"], first["thresholds"]["guarantee"]) == (True, "certified")
    assert guarantee(service) == "certified"
    suspend(service)

    recipe = service.client.get(RECIPE).json()
    assert recipe["recipe"]["certified"] is False
    suspension = recipe["suspension"]
    assert suspension["kinds"] == ["p_value"]
    assert suspension["onset"] <= suspension["since"]
    assert "parts" in suspension["explanation"]
    (product,) = service.client.get("/v1/products").json()["items"]
    assert (product["recipe"]["recipe"]["guarantee"], product["recipe"]["suspension"]) == ("suspended", suspension)
    (during,) = send(service, levels(1, 131, 132, seed=1))
    assert (during["thresholds"]["certified"], during["thresholds"]["guarantee"]) == (False, "suspended")
    stored = service.client.get(f"/v1/inspections/{during['id']}").json()
    assert stored["thresholds"]["guarantee"] == "suspended"
    assert service.client.get(f"/v1/inspections/{first['id']}").json()["thresholds"]["guarantee"] == "certified"

    found = report(service)
    assert (found["guarantee"], found["suspension"]) == ("suspended", suspension)
    streams = {stream["kind"]: stream for stream in found["streams"]}
    assert set(streams) == {
        "p_value", "brightness", "contrast", "sharpness", "colour", "reject_rate", "false_reject",
    }  # fmt: skip
    alarmed = streams["p_value"]
    assert (alarmed["state"], alarmed["direction"], alarmed["station"]) == ("alarm", "higher", None)
    assert alarmed["evidence"] >= alarmed["limit"] == alarmed["suspends_at"] == 7
    assert alarmed["remedy"]
    assert (alarmed["reference"], alarmed["reference_count"]) == ("card", len(SCORES) - 1)
    assert streams["brightness"]["state"] == "collecting"
    assert 0 < len(alarmed["history"]) <= 120
    (alarm,) = found["alarms"]
    assert (alarm["kind"], alarm["suspends"], alarm["acknowledged_at"]) == ("p_value", True, None)
    eventually(partial(is_suspended, service))
    (state,) = service.services.drift.alarm_states()
    assert (state.product, state.station, state.cause, state.is_suspended) == ("widget", None, "p_value", True)
    labels = {"product": "widget", "station": "", "kind": "p_value"}
    assert (value(service, "inspection_drift_evidence", **labels) or 0) >= 7
    assert value(service, "inspection_drift_evidence_limit", kind="p_value") == 7
    assert value(service, "inspection_drift_alarms_total", product="widget", kind="p_value") == 1

    acknowledged = service.client.post(ACKNOWLEDGE, json=SIGNED)
    assert acknowledged.status_code == 200, acknowledged.text
    assert (acknowledged.json()["guarantee"], acknowledged.json()["suspension"]) == ("certified", None)
    assert guarantee(service) == "certified"
    (after,) = acknowledged.json()["alarms"]
    assert (after["acknowledged_by"], after["reason"]) == ("Ada", SIGNED["reason"])
    (entry,) = service.client.get("/v1/audit", params={"action": "drift:acknowledge"}).json()["items"]
    assert (entry["actor"], entry["note"], entry["product"]) == ("Ada", SIGNED["reason"], "widget")
    eventually(lambda: value(service, "inspection_drift_evidence", **labels) == 0)
    again = service.client.post(ACKNOWLEDGE, json=SIGNED)
    assert again.status_code == 409
    assert again.json()["type"].endswith("no-open-drift-alarm")


def test_another_reference_ends_an_alarm_and_other_changes_do_not(service: RunningService) -> None:
    suspend(service)
    change = {"author": "Ada", "reason": "r", "storage": {"max_bytes": 10**12}}
    assert service.client.put(RECIPE, json=change).json()["recipe"]["guarantee"] == "suspended"
    recalibrated = service.client.put(
        RECIPE, json={"author": "Ada", "reason": "recalibrated", "target_false_reject_rate": 0.02}
    ).json()
    assert (recalibrated["recipe"]["guarantee"], recalibrated["suspension"]) == ("certified", None)
    (one,) = send(service, levels(1, 131, 132, seed=1))
    assert one["thresholds"]["guarantee"] == "certified"

    def is_ended() -> bool:
        found = report(service)
        return found["alarms"][0]["ended_at"] is not None and len(found["streams"]) > 0

    eventually(is_ended)
    assert service.client.post(ACKNOWLEDGE, json=SIGNED).status_code == 409


def test_thresholds_by_hand_have_no_guarantee_to_suspend(service: RunningService) -> None:
    by_hand = {"author": "Ada", "reason": "r", "fail_threshold": 0.058, "review_threshold": 0.05}
    assert service.client.put(RECIPE, json=by_hand).json()["recipe"]["guarantee"] == "none"
    send(service, levels(25, 142, 143))
    eventually(lambda: len(report(service)["alarms"]) == 1)
    assert (guarantee(service), report(service)["guarantee"]) == ("none", "none")
    (one,) = send(service, levels(1, 131, 132, seed=1))
    assert one["thresholds"]["guarantee"] == "none"


def test_an_alarm_of_one_station_suspends_its_inspections_only(service: RunningService) -> None:
    send(service, levels(60, 131, 142), "left")
    send(service, levels(25, 142, 143, seed=1), "right")
    eventually(lambda: guarantee(service) == "suspended")
    eventually(lambda: any(alarm["station"] == "right" for alarm in report(service)["alarms"]))
    assert service.client.get(RECIPE).json()["suspension"]["stations"] == ["right"]
    product_wide = any(alarm["station"] is None for alarm in report(service)["alarms"])
    (left,) = send(service, levels(1, 131, 132, seed=2), "left")
    (right,) = send(service, levels(1, 131, 132, seed=3), "right")
    assert left["thresholds"]["guarantee"] == ("suspended" if product_wide else "certified")
    assert right["thresholds"]["guarantee"] == "suspended"
    labels = {"product": "widget", "station": "left", "kind": "p_value"}
    eventually(lambda: value(service, "inspection_drift_evidence", **labels) is not None)
    headers = bearer(make_key(service.store.engine, "inspect", stations=["left"]))
    eventually(lambda: service.client.get(RECIPE).status_code == 401)
    for path in (RECIPE, DRIFT, "/v1/products", "/v1/products/widget"):
        seen = service.client.get(path, headers=headers)
        assert seen.status_code == 200, path
        assert '"suspension":{' in seen.text, path
        assert '"right"' not in seen.text, path


def test_a_repeated_image_is_counted_once(service: RunningService) -> None:
    (image,) = levels(1, 142, 143)
    send(service, [image] * 60 + levels(2, 131, 132))
    eventually(lambda: counted(service) == 3)
    assert guarantee(service) == "certified"


def test_every_inspection_is_counted_once_across_restarts(tiny_models: Path, tmp_path: Path, database_url: str) -> None:
    with run_service(tiny_models, tmp_path / "data", database_url=database_url) as first:
        send(first, levels(15, 131, 142))
        eventually(lambda: counted(first) > 0)
        send(first, levels(15, 131, 142, seed=1))
    with run_service(tiny_models, tmp_path / "data", database_url=database_url) as second:
        send(second, levels(10, 131, 142, seed=2), "left")
        eventually(lambda: counted(second) == 40)
        assert counted(second, station="left") == 10
        suspend(second)
    with run_service(tiny_models, tmp_path / "data", database_url=database_url) as third:
        assert guarantee(third) == "suspended"
        assert third.client.post(ACKNOWLEDGE, json=SIGNED).json()["guarantee"] == "certified"


def test_two_processes_count_every_inspection_once_and_share_the_state(
    tiny_models: Path, tmp_path: Path, postgres_url: str
) -> None:
    with (
        run_service(tiny_models, tmp_path / "one", database_url=postgres_url) as one,
        run_service(tiny_models, tmp_path / "two", database_url=postgres_url) as two,
    ):
        for seed in range(5):
            send(one, levels(4, 131, 142, seed=seed))
            send(two, levels(4, 131, 142, seed=100 + seed))
        eventually(lambda: counted(one) == 40)
        send(two, levels(25, 142, 143))
        eventually(lambda: guarantee(one) == "suspended")
        suspended_at = time.monotonic()
        eventually(lambda: guarantee(two) == "suspended")
        assert time.monotonic() - suspended_at < 2
        for process in (one, two):
            eventually(partial(is_suspended, process))
        assert two.client.post(ACKNOWLEDGE, json=SIGNED).status_code == 200
        eventually(lambda: guarantee(one) == "certified")
        send(one, levels(5, 131, 142, seed=7))
        # The stream starts anew in the process that monitors, whichever acknowledged.
        eventually(lambda: counted(one) == 70)
        assert report(one)["streams"][0]["state"] == "ok"


def test_false_rejects_that_reviews_found_are_drift(service: RunningService) -> None:
    bad = send(service, [image for seed in range(30) for image in levels(1, 200, 201, seed=seed)])
    send(service, levels(30, 131, 142))
    for inspection in bad:
        response = service.client.post(f"/v1/inspections/{inspection['id']}:review", json={"label": "good"})
        assert response.status_code == 201

    def kinds() -> set[str]:
        return {alarm["kind"] for alarm in report(service)["alarms"]}

    eventually(lambda: "false_reject" in kinds())
    stream = next(stream for stream in report(service)["streams"] if stream["kind"] == "false_reject")
    assert stream["state"] == "alarm"


def test_quality_of_the_calibration_images_is_the_reference_where_the_card_has_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ("brightness", "contrast", "sharpness", "red_share", "blue_share")
    measured = {name: rng.normal(137, 3, len(SCORES)).tolist() for name in names}
    write_tiny_bundle(tmp_path / "models", card={"quality_of_score": measured})
    with run_service(tmp_path / "models", tmp_path / "data") as service:
        send(service, levels(25, 145, 146))  # fails, or beyond all of them
        send(service, levels(20, 113, 116, seed=1))
        eventually(lambda: any(stream["kind"] == "brightness" for stream in report(service)["streams"]))
        stream = next(stream for stream in report(service)["streams"] if stream["kind"] == "brightness")
        assert (stream["reference"], stream["reference_count"]) == ("card", len(SCORES) - 1)
        eventually(lambda: "brightness" in {alarm["kind"] for alarm in report(service)["alarms"]})
        explanation = service.client.get(RECIPE).json()["suspension"]["explanation"]
        assert explanation.startswith("The light changed: ")
        assert "images are darker" in explanation


def test_monitoring_begins_with_the_first_start_not_with_old_inspections(tiny_models: Path, tmp_path: Path) -> None:
    with run_service(tiny_models, tmp_path / "data") as service:
        send(service, levels(5, 131, 142))
        eventually(lambda: counted(service) == 5)
    # As a database from before drift was monitored.
    with run_service(tiny_models, tmp_path / "data") as service:
        service.runtime._drift.close()
        with service.store.engine.begin() as connection:
            connection.execute(delete(DriftPositionRow))
            connection.execute(delete(DriftStreamRow))
    with run_service(tiny_models, tmp_path / "data") as service:
        send(service, levels(3, 131, 142, seed=1))
        eventually(lambda: counted(service) == 3)


def test_acknowledgement_needs_a_reason_and_unknown_products_are_refused(service: RunningService) -> None:
    assert service.client.post(ACKNOWLEDGE, json={}).status_code == 422
    assert service.client.post(ACKNOWLEDGE, json={"reason": " "}).status_code == 422
    responses: list[httpx.Response] = [
        service.client.get("/v1/products/bolt/drift"),
        service.client.post("/v1/products/bolt/drift:acknowledge", json=SIGNED),
    ]
    assert [response.status_code for response in responses] == [404, 404]


def test_a_stream_that_cannot_be_continued_starts_anew_and_affects_no_other_product(tmp_path: Path) -> None:
    for product in ("bolt", "widget"):
        write_tiny_bundle(tmp_path / "models", product)
    with run_service(tmp_path / "models", tmp_path / "data") as service:
        for product in ("bolt", "widget"):
            for image in levels(3, 131, 142):
                service.client.post(f"/v1/products/{product}/inspections", content=image, headers=PNG)
        eventually(lambda: counted(service) == 3)
    with run_service(tmp_path / "models", tmp_path / "data") as service:
        service.runtime._drift.close()
        with service.store.engine.begin() as connection:
            damaged = update(DriftStreamRow).where(DriftStreamRow.product == "bolt")
            connection.execute(damaged.values(progress={"another": "version"}))
    with run_service(tmp_path / "models", tmp_path / "data") as service:
        for product in ("bolt", "widget"):
            for image in levels(3, 131, 142, seed=1):
                service.client.post(f"/v1/products/{product}/inspections", content=image, headers=PNG)
        eventually(lambda: counted(service) == 6)
        eventually(lambda: {s["count"] for s in service.client.get("/v1/products/bolt/drift").json()["streams"]} == {3})


def test_a_key_for_stations_sees_their_streams_and_acknowledges_nothing(service: RunningService) -> None:
    send(service, levels(2, 131, 142), "left")
    send(service, levels(2, 131, 142, seed=1), "right")
    eventually(lambda: counted(service, station="right") == 2)
    created = service.client.post("/v1/access/keys", json={"name": "root", "scopes": ["admin"]})
    key = make_key(service.store.engine, "inspect", stations=["right"])
    headers = bearer(key)
    assert created.status_code == 201
    found = service.client.get(DRIFT, headers=headers).json()
    assert {stream["station"] for stream in found["streams"]} == {"right"}
    refused = service.client.post(ACKNOWLEDGE, json=SIGNED, headers=headers)
    assert refused.status_code == 403


def test_database_that_stays_unavailable_is_logged_once(service: RunningService) -> None:
    drift = service.runtime._drift
    drift.close()  # its thread would succeed in between

    def fail() -> None:
        raise StoreUnavailable("the disk is broken")

    with capture_logs() as logged:
        for work in (fail, fail, lambda: None, fail):
            drift._attempt(work)
    warnings = [entry["reason"] for entry in logged if entry["event"] == "drift not monitored"]
    assert warnings == ["the disk is broken"] * 2
