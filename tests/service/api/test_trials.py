"""Trials: an image is judged as an inspection judges it, and leaves no trace."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.access import bearer, make_key, problem_of
from tests.bundles import part
from tests.running_service import BAD, GOOD, RunningService, Serve, encode

TRY = "/v1/products/widget/inspections:try"
_OF_A_STORED_INSPECTION = {
    "id", "part_id", "station", "lot", "captured_at", "created_at", "request_id", "label", "artefacts_removed_at",
    "links",
}  # fmt: skip
DARK = encode(part() * 0)


@pytest.fixture(scope="module", autouse=True)
def limit(service: RunningService) -> None:
    reject_dark_images(service)


def reject_dark_images(service: RunningService) -> None:
    recipe = {"author": "a", "reason": "test", "quality": {"min_brightness": 40}}
    assert service.client.put("/v1/products/widget/recipe", json=recipe).is_success


def try_image(service: RunningService, image: bytes = BAD, **options: Any) -> Any:
    headers = {"content-type": "image/png"} | options.pop("headers", {})
    return service.client.post(TRY, content=image, headers=headers, **options)


@pytest.mark.parametrize(("image", "decision"), [(GOOD, "pass"), (BAD, "fail"), (DARK, "invalid")])
def test_trial_returns_what_an_inspection_returns(service: RunningService, image: bytes, decision: str) -> None:
    stored = service.inspect(image).json()
    trial = try_image(service, image).json()
    assert trial["decision"] == decision
    assert (trial["preview"], trial["overlay"]) == (None, None)
    assert {name for name in stored if name not in trial} == _OF_A_STORED_INSPECTION
    for name in stored.keys() & trial.keys() - {"timings_ms", "links"}:
        assert trial[name] == stored[name], name


def test_trial_leaves_no_trace(serve: Serve) -> None:
    with serve() as service:
        reject_dark_images(service)
        entries = len(service.client.get("/v1/audit").json()["items"])
        before = files_of(service.settings.data)
        for image in (GOOD, BAD, DARK):
            for _ in range(2):
                assert try_image(service, image).status_code == 200
        assert service.client.get("/v1/inspections").json()["items"] == []
        assert files_of(service.settings.data) == before
        metrics = service.client.get("/metrics").text
        assert 'inspection_trials_total{decision="fail",product="widget"} 2.0' in metrics
        assert 'inspection_requests_total{decision="fail",product="widget"} 0.0' in metrics
        assert 'inspection_p_value_count{product="widget"} 0.0' in metrics
        assert len(service.client.get("/v1/audit").json()["items"]) == entries


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "inspections").rglob("*"))


def test_preview_and_overlay_have_the_requested_size(service: RunningService) -> None:
    image = encode(part(width=640, height=480, spot=(200, 240, 60)))
    trial = try_image(service, image, params={"max_side": 128}).json()
    for name, media_type in (("preview", "image/jpeg"), ("overlay", "image/png")):
        layer = trial[name]
        assert (layer["media_type"], layer["width"], layer["height"]) == (media_type, 128, 96)
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(layer["data"]), np.uint8), cv2.IMREAD_UNCHANGED)
        assert decoded is not None
        assert decoded.shape[:2] == (96, 128)
    stored = service.inspect(image).json()
    url = f"/v1/inspections/{stored['id']}/preview"
    for layer, name in (("image", "preview"), ("overlay", "overlay")):
        shown = service.client.get(url, params={"layer": layer, "max_side": 128}).content
        assert base64.b64decode(trial[name]["data"]) == shown, "one implementation draws both"
    dark = try_image(service, DARK, params={"max_side": 64}).json()
    assert dark["overlay"]["data"]


def test_form_and_camera_buffer_are_accepted(service: RunningService) -> None:
    form = service.client.post(TRY, files={"image": ("a.png", BAD, "image/png")})
    assert form.json()["decision"] == "fail"
    pixels = cv2.cvtColor(part(spot=(20, 30, 8)), cv2.COLOR_BGR2RGB)
    height, width = pixels.shape[:2]
    layout = {"x-pixel-format": "RGB8", "x-width": str(width), "x-height": str(height)}
    headers = {"content-type": "application/octet-stream", **layout}
    assert try_image(service, pixels.tobytes(), headers=headers).json()["decision"] == "fail"
    extra = service.client.post(TRY, files={"image": ("a.png", BAD, "image/png")}, data={"lot": "1"})
    assert (problem_of(extra), "lot" in extra.json()["detail"]) == ((422, "invalid-request"), True)


def test_unusable_image_and_product_are_refused(service: RunningService) -> None:
    assert problem_of(try_image(service, b"no image")) == (415, "not-an-image")
    assert problem_of(try_image(service, GOOD[:200]))[0] == 422
    unknown = service.client.post("/v1/products/ghost/inspections:try", content=GOOD)
    assert problem_of(unknown) == (404, "unknown-product")


def test_trials_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.serving.trials.MAX_IN_FLIGHT", 0)
    with serve() as service:
        refused = try_image(service)
        assert problem_of(refused) == (503, "queue-full")
        assert service.inspect().status_code == 201


def test_engineer_tries_and_an_operator_does_not(serve: Serve) -> None:
    with serve() as service:
        keys = {scope: make_key(service.store.engine, scope) for scope in ("inspect", "engineer")}
        service.app.state.access._require("test")
        assert try_image(service, headers=bearer(keys["inspect"])).status_code == 403
        assert try_image(service, headers=bearer(keys["engineer"])).status_code == 200
        other = make_key(service.store.engine, "engineer", products=["gadget"])
        assert try_image(service, headers=bearer(other)).status_code == 403
