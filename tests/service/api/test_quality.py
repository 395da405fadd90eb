"""The quality check over HTTP: invalid images are reported, stored and counted, and not judged."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from plumbline_client import Client
from service.bundle.arrays import UInt8Image
from service.cli.main import app
from service.inspection.heatmap import Legend, draw_legend
from tests.bundles import SIZE, part, tiny_quality, write_tiny_bundle
from tests.problems import assert_problem
from tests.running_service import INSPECT, RunningService, encode, run_service
from tests.serving import service_process

WHO = {"author": "a", "reason": "b"}
RECIPE = "/v1/products/widget/recipe"
IMAGE = {"content-type": "image/png"}
# Good images of this product: gray stripes, well exposed.
STATISTICS = tiny_quality(
    brightness=(120, 136), dark_share=(0, 0), bright_share=(0, 0), sharpness=(150, 250), contrast=(8, 12)
)


def stripes(*, light: float = 1.0, blur: float = 0.0, part: int = 0) -> npt.NDArray[np.uint8]:
    gray = np.full((SIZE, SIZE), 128.0)
    gray[:, ::4] += 20
    gray[:, 2::4] -= 20
    gray[0, 0] += part  # makes every image different
    gray *= light
    if blur:
        gray = cv2.GaussianBlur(gray, (0, 0), blur)
    return np.repeat(np.clip(gray, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_bundle(folder, quality=STATISTICS)
    return folder


@pytest.fixture
def service(models: Path, tmp_path: Path) -> Iterator[RunningService]:
    with run_service(models, tmp_path / "data") as running:
        yield running


def put(service: RunningService, **parts: Any) -> None:
    response = service.client.put(RECIPE, json=WHO | parts)
    assert response.status_code == 200, response.text


def reasons(response: httpx.Response) -> list[str]:
    assert response.status_code == 201, response.text
    assert response.json()["decision"] == ("invalid" if response.json()["invalid_reasons"] else "pass")
    return [item["reason"] for item in response.json()["invalid_reasons"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (stripes(), []),
        (stripes(light=0.7), []),
        (stripes(light=0.4), ["under-exposed"]),
        (stripes(light=2), ["over-exposed", "over-exposed"]),
        (stripes(blur=1.5), ["blurred", "empty-frame"]),
        (np.zeros((SIZE, SIZE, 3), np.uint8), ["under-exposed", "under-exposed", "blurred", "empty-frame"]),
    ],
)
def test_invalid_image_gets_reasons_instead_of_a_decision(
    service: RunningService, image: npt.NDArray[np.uint8], expected: list[str]
) -> None:
    put(service, fail_threshold=10, review_threshold=9)  # whatever is judged, passes
    assert reasons(service.inspect(encode(image))) == expected


@pytest.mark.slow
def test_invalid_answer_has_everything_but_a_score(service: RunningService) -> None:
    response = service.inspect(encode(stripes(light=0.4)), params={"part_id": "7"})
    body = response.json()

    assert (body["score"], body["p_value"], body["regions"], body["batch_size"]) == (None, None, [], 0)
    (reason,) = body["invalid_reasons"]
    assert reason["detail"] == (
        f"The image is too dark: its mean gray level is {reason['measured']:.4g}, below {reason['limit']:.4g}."
    )
    assert (reason["measure"], reason["limit"]) == ("brightness", 60)
    assert body["quality"]["brightness"] == reason["measured"]
    assert response.headers["x-plumbline-decision"] == "invalid"
    assert response.headers["x-plumbline-invalid-reasons"] == "under-exposed"
    assert "x-plumbline-score" not in response.headers
    assert set(body["timings_ms"]) == {"decode", "preprocess"}
    # It is stored like every other, and found.
    assert service.client.get(body["links"]["self"]).json() == body
    found = service.client.get("/v1/inspections", params={"decision": "invalid", "part_id": "7"}).json()["items"]
    assert found == [body]
    assert service.client.get(body["links"]["image"]).content == encode(stripes(light=0.4))


@pytest.mark.slow
def test_invalid_image_has_no_map_and_a_heatmap_without_colours(service: RunningService) -> None:
    data = encode(stripes(light=0.4))
    body = service.inspect(data).json()

    assert body["links"]["map"] is None
    assert_problem(service.client.get(f"/v1/inspections/{body['id']}/map"), 409, "not-judged")
    shown = [
        service.client.get(body["links"]["heatmap"], params={"format": "png"}).content,
        service.inspect(data, headers={"accept": "image/png"}).content,
    ]
    for png in shown:
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), 1), stripes(light=0.4))


def test_invalid_images_are_counted_apart(service: RunningService) -> None:
    put(service, fail_threshold=10, review_threshold=9)
    for image in (stripes(), stripes(light=0.4), np.zeros((SIZE, SIZE, 3), np.uint8)):
        assert service.inspect(encode(image)).status_code == 201
    metrics = service.client.get("/metrics").text.splitlines()

    for line in (
        'inspection_requests_total{decision="invalid",product="widget"} 2.0',
        'inspection_requests_total{decision="pass",product="widget"} 1.0',
        'inspection_invalid_total{product="widget",reason="under-exposed"} 2.0',
        'inspection_invalid_total{product="widget",reason="empty-frame"} 1.0',
        'inspection_invalid_total{product="widget",reason="wrong-size"} 0.0',
        'inspection_score_count{product="widget"} 1',
        "inspection_batch_size_count 1.0",
    ):
        assert any(found.startswith(line) for found in metrics), line


def test_recipe_overrides_a_limit_and_switches_a_check_off(service: RunningService) -> None:
    dark = encode(stripes(light=0.4))
    put(service, fail_threshold=10, review_threshold=9, quality={"min_brightness": 40})
    assert reasons(service.inspect(dark)) == []
    put(service, quality={"min_brightness": None})
    assert reasons(service.inspect(dark)) == ["under-exposed"]
    put(service, quality={"off": ["under-exposed"]})
    assert reasons(service.inspect(dark)) == []


@pytest.mark.slow
def test_frozen_camera_is_detected_until_its_image_changes(service: RunningService) -> None:
    put(service, fail_threshold=10, review_threshold=9, quality={"frozen_after": 3})
    first, second = encode(stripes()), encode(stripes(part=5))

    def send(image: bytes, station: str) -> list[str]:
        return reasons(service.inspect(image, params={"station": station}))

    frozen = ["frozen-frame"]
    assert [send(first, "A") for _ in range(4)] == [[], [], frozen, frozen]
    assert send(first, "B") == []
    assert send(second, "A") == []
    assert [send(first, "A") for _ in range(3)] == [[], [], frozen]


def test_wrong_size_is_invalid_if_a_size_is_declared(service: RunningService) -> None:
    put(service, fail_threshold=10, review_threshold=9)
    wide = encode(np.hstack([stripes(), stripes()]))
    # Resizing removes its fine stripes, so only the size is checked here.
    put(service, quality={"off": ["blurred", "empty-frame"]})
    assert reasons(service.inspect(wide)) == []
    put(service, pixels={"width": SIZE, "height": SIZE})
    assert reasons(service.inspect(wide)) == ["wrong-size"]
    assert reasons(service.inspect(encode(stripes()))) == []


def test_bundle_without_quality_statistics_serves(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "models", quality=None)
    with run_service(tmp_path / "models", tmp_path / "data") as service:
        assert reasons(service.inspect(encode(np.full((SIZE, SIZE, 3), 128, np.uint8)))) == ["empty-frame"]
        assert service.inspect(encode(stripes(light=0.4))).json()["decision"] == "fail"


@pytest.mark.slow
def test_invalid_images_cannot_be_used_for_a_proposal(service: RunningService) -> None:
    put(service, fail_threshold=10, review_threshold=9)
    for number in range(5):
        assert reasons(service.inspect(encode(stripes(part=number)))) == []
    invalid = service.inspect(encode(stripes(light=0.4))).json()["id"]
    address = "/v1/products/widget/thresholds:propose"
    requested = {"target_false_reject_rate": 0.2, "author": "a"}

    by_time = {"since": "2026-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z", "declared_good": True}
    response = service.client.post(address, json=requested | {"inspections": by_time})
    assert response.status_code in {200, 201}, response.text
    assert response.json()["source"]["images"] == 5
    named = {"ids": [invalid], "declared_good": True}
    assert_problem(service.client.post(address, json=requested | {"inspections": named}), 409, "not-judged")


@pytest.mark.slow
def test_client_and_command_line_report_invalid(service: RunningService, models: Path, tmp_path: Path) -> None:
    with Client(f"http://127.0.0.1:{service.port}", retries=0) as client:
        verdict = client.inspect("widget", encode(stripes(light=0.4)))
        assert (verdict.decision, verdict.score) == ("invalid", None)
        assert [item.reason.value for item in verdict.invalid_reasons] == ["under-exposed"]
        assert [item.id for item in client.inspections(decision="invalid")] == [verdict.id]
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "dark.png").write_bytes(encode(stripes(light=0.4)))
    (folder / "good.png").write_bytes(encode(np.full((SIZE, SIZE, 3), 128, np.uint8)))
    table = tmp_path / "results.csv"
    arguments = ["inspect", str(folder), "--product", "widget", "--models", str(models), "--data", str(tmp_path / "no")]
    result = CliRunner().invoke(app, [*arguments, "--provider", "cpu", "--output", str(table)])
    assert result.exit_code == 1
    assert "too dark" in result.stdout
    rows = {Path(row["file"]).name: row for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())}
    assert (rows["dark.png"]["decision"], rows["dark.png"]["score"]) == ("invalid", "")
    assert "too dark" in rows["dark.png"]["reasons"]
    assert "empty" in rows["good.png"]["reasons"]


@pytest.mark.slow
def test_process_stores_invalid_images(models: Path, tmp_path: Path) -> None:
    with service_process(models, tmp_path / "data", {"provider": "cpu"}) as process:
        process.wait_until(200)
        response = httpx.post(process.url + INSPECT, content=encode(stripes(light=0.4)), headers=IMAGE)
        assert response.json()["decision"] == "invalid"
        process.kill()
    with service_process(models, tmp_path / "data", {"provider": "cpu"}) as process:
        process.wait_until(200)
        assert httpx.get(process.url + response.json()["links"]["self"]).json() == response.json()


@pytest.mark.slow
def test_image_of_another_shape_than_the_training_images_is_invalid(tmp_path: Path) -> None:
    """A 512 x 512 product is sent as 1024 x 384."""
    square = {"min_width": 512, "max_width": 512, "min_height": 512, "max_height": 512}
    write_tiny_bundle(tmp_path / "models", card={"image_size": square | {"min_aspect": 1.0, "max_aspect": 1.0}})
    wide, right = (encode(part(width=width, height=height)) for width, height in ((1024, 384), (512, 512)))
    with run_service(tmp_path / "models", tmp_path / "data") as service:
        answer = service.inspect(wide).json()
        assert answer["decision"] == "invalid"
        assert answer["score"] is None
        (reason,) = answer["invalid_reasons"]
        assert (reason["reason"], reason["measure"]) == ("wrong-size", "aspect_ratio")
        assert "1024 x 384" in reason["detail"]
        assert service.inspect(right).json()["decision"] == "pass"
        assert service.inspect(encode(part(width=64, height=64))).json()["invalid_reasons"][0]["measure"] == "width"

        put(service, pixels={"width": 1024, "height": 384})
        assert service.inspect(wide).json()["decision"] == "pass"
        put(service, pixels=None, quality={"off": ["wrong-size"]})
        assert service.inspect(wide).json()["decision"] == "pass"


def test_bundle_without_recorded_sizes_accepts_every_size(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "models")
    with run_service(tmp_path / "models", tmp_path / "data") as service:
        assert service.inspect(encode(part(width=1024, height=384))).json()["decision"] == "pass"


def test_legend_of_an_invalid_image_states_the_reason_in_words(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Legend] = []

    def record(image: UInt8Image, legend: Legend) -> UInt8Image:
        drawn.append(legend)
        return draw_legend(image, legend)

    monkeypatch.setattr("service.serving.artefacts.heatmap.draw_legend", record)
    stored = service.inspect(encode(stripes(light=0.1))).json()
    details = [item["detail"] for item in stored["invalid_reasons"]]
    response = service.client.get(stored["links"]["heatmap"], params={"legend": "true", "format": "png"})

    assert response.status_code == 200
    assert len(details) >= 1
    assert drawn[0].lines() == ["INVALID", *details]
