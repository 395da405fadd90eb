"""Explanations over HTTP and on the command line: the spot, its sources, and the nearest normal spot."""

from __future__ import annotations

import base64
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import pytest

from plumbline_client import Client
from service.bundle.manifest import InputGeometry, Tiling
from service.schemas.explanation import ExplanationPatch, NearestNormal, WhyRecord
from service.serving import explanations
from tests.bundles import SIZE, part
from tests.command_line import run
from tests.explained_bundles import BANK_CELLS, GRAYS, PLACES, gray_origins, write_explained_bundle
from tests.running_service import BAD, RunningService, Serve, encode
from tests.service.api.test_bundles import FIRST_DAY, PRODUCT, WHO, activate, make_bundle
from tests.service.api.test_shadow import wait_for

pytestmark = pytest.mark.slow

WIDE = encode(part(width=2 * SIZE, height=SIZE, spot=(40, 30, 8)))
"""The defect is at (40, 30), which is cells 10 and 11 of 16 columns."""


def get(service: RunningService, inspection_id: str, **params: int) -> httpx.Response:
    return service.client.get(f"/v1/inspections/{inspection_id}/why", params=params)


def why(service: RunningService, inspection_id: str, **params: int) -> WhyRecord:
    response = get(service, inspection_id, **params)
    assert response.status_code == 200, response.text
    return WhyRecord.model_validate_json(response.content)


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].partition("#")[2]


def pixels(patch: ExplanationPatch) -> npt.NDArray[np.uint8]:
    data = np.frombuffer(base64.b64decode(patch.image.data), np.uint8)
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    assert decoded.shape == (patch.image.height, patch.image.width, 3)
    return decoded


def in_cell(patch: ExplanationPatch) -> npt.NDArray[np.uint8]:
    """Return the pixels inside of the cell of a patch."""
    left, top, width, height = patch.cell
    down = slice(round(top * patch.image.height), round((top + height) * patch.image.height))
    across = slice(round(left * patch.image.width), round((left + width) * patch.image.width))
    return pixels(patch)[down, across]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_explained_bundle(tmp_path / "models", origins=gray_origins())
    return tmp_path / "models"


def only(found: WhyRecord) -> NearestNormal:
    (nearest,) = found.nearest
    return nearest


def test_highest_value_is_explained_with_the_nearest_normal_spot(serve: Serve, models: Path) -> None:
    with serve(models=models) as service:
        inspection = service.inspect(WIDE).json()
        found = why(service, inspection["id"])
        peak = np.load(io.BytesIO(service.client.get(inspection["links"]["map"]).content))
        assert (found.cell.rows, found.cell.columns) == peak.shape
        assert found.cell.value == pytest.approx(peak.max(), rel=1e-5)
        assert peak[found.cell.row, found.cell.column] == peak.max()
        assert found.cell.is_peak
        left, top, width, height = found.cell.box
        assert (left, top, width, height) == (found.cell.column * 8, found.cell.row * 4, 8, 4)
        assert 32 <= left <= 48
        assert 24 <= top <= 40
        assert sum(one.value for one in found.contributions) == pytest.approx(found.cell.value, rel=1e-5)
        assert sum(one.share for one in found.contributions) == pytest.approx(1)
        values = [one.value for one in found.contributions]
        assert {one.source for one in found.contributions} == {"bank", "level"}
        assert values == sorted(values, reverse=True)
        nearest = only(found)
        brightest = GRAYS.index(max(GRAYS))
        assert (nearest.bank, nearest.prototype) == ("bank", brightest)
        assert nearest.image is not None
        assert (nearest.image.name, nearest.image.sha256) == (f"good/{GRAYS[brightest]}.png", f"{brightest:064x}")
        assert (nearest.image.captured_on, nearest.image.dated_by, nearest.image.augmented) == (None, None, False)
        row, column = PLACES[brightest]
        cell = (2 * SIZE / BANK_CELLS, SIZE / BANK_CELLS)
        assert nearest.image.cell == (column * cell[0], row * cell[1], *cell)
        assert nearest.patch is not None
        assert in_cell(nearest.patch).mean() == pytest.approx(GRAYS[brightest], abs=2), "a patch of that good image"
        assert in_cell(nearest.spot).max() > 240, "the white defect"
        assert found.spot == nearest.spot
        assert found.missing is None
        assert found.bundle.version == inspection["bundle"]["version"]
        assert found.fail_threshold == inspection["thresholds"]["fail"]


def test_any_pixel_can_be_explained_and_dates_are_those_that_are_stated(serve: Serve, models: Path) -> None:
    image = part(width=2 * SIZE, height=SIZE, spot=(40, 30, 8))
    image[48:, 96:] = GRAYS[1]
    with serve(models=models) as service:
        inspection = service.inspect(encode(image)).json()
        found = why(service, inspection["id"], x=120, y=60)
        assert (found.cell.row, found.cell.column, found.cell.is_peak) == (15, 15, False)
        image_facts = only(found).image
        assert image_facts is not None
        assert (image_facts.name, str(image_facts.captured_on)) == (f"good/{GRAYS[1]}.png", "2026-03-02")
        assert image_facts.dated_by == "name"
        assert only(found).distance == pytest.approx(0, abs=1e-6)
        assert why(service, inspection["id"], x=0, y=0).cell.box == (0, 0, 8, 4)
        with Client(str(service.client.base_url)) as client:
            assert client.why(inspection["id"], 120, 60).model_dump() == found.model_dump()
            assert client.why(inspection["id"]).cell.is_peak


def test_requests_that_cannot_be_explained_say_why(serve: Serve, models: Path) -> None:
    with serve(models=models) as service:
        found = service.inspect(WIDE).json()["id"]
        assert problem(get(service, found, x=1)) == (422, "invalid-request")
        assert problem(get(service, found, y=1)) == (422, "invalid-request")
        assert problem(get(service, found, x=-1, y=1)) == (422, "invalid-request")
        outside = get(service, found, x=2 * SIZE, y=0)
        assert problem(outside) == (422, "invalid-request")
        assert "Give x from 0 to 127 and y from 0 to 63." in outside.json()["detail"]
        assert problem(get(service, "01900000-0000-7000-8000-000000000000")) == (404, "unknown-inspection")
        recipe = WHO | {"quality": {"min_brightness": 100.0}}
        assert service.client.put(f"{PRODUCT}/recipe", json=recipe).status_code == 200
        dark = service.inspect(encode(part(brightness=0))).json()
        assert dark["decision"] == "invalid"
        assert problem(get(service, dark["id"])) == (409, "not-judged")


def test_peak_lies_in_the_judged_area(serve: Serve, models: Path) -> None:
    image = part(width=2 * SIZE, height=SIZE, spot=(40, 30, 8))
    image[48:56, 100:110] = 200
    with serve(models=models) as service:
        area = {"ignore": [[[16, 8], [72, 8], [72, 46], [16, 46]]]}
        assert service.client.put(f"{PRODUCT}/recipe", json=WHO | area).status_code == 200
        found = why(service, service.inspect(encode(image)).json()["id"])
        assert found.cell.is_peak
        assert 96 <= found.cell.box[0] <= 110
        assert 48 <= found.cell.box[1] <= 56


def test_bundle_from_before_explanations_says_what_to_do(serve: Serve, tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    with serve(models=tmp_path / "models") as service:
        response = get(service, service.inspect(BAD).json()["id"])
        assert problem(response) == (409, "no-explanation")
        assert "plumbline-train" in response.json()["detail"]


def test_bundle_without_origins_is_explained_without_a_patch(serve: Serve, tmp_path: Path) -> None:
    write_explained_bundle(tmp_path / "models")
    with serve(models=tmp_path / "models") as service:
        found = why(service, service.inspect(WIDE).json()["id"])
        assert only(found).image is None
        assert only(found).patch is None
        assert only(found).distance > 0
        assert found.missing is not None
        assert "before the origins of prototypes were stored" in found.missing


def test_inspection_is_explained_by_the_bundle_that_decided_it(serve: Serve, models: Path) -> None:
    with serve(models=models) as service:
        inspection = service.inspect(WIDE).json()
        before = why(service, inspection["id"])
        other = write_explained_bundle(
            models, origins=gray_origins(), created_at=FIRST_DAY - timedelta(days=1), git_revision="other"
        )
        activate(service, other).raise_for_status()
        newer = service.inspect(WIDE).json()
        assert newer["bundle"]["version"] == other.version != inspection["bundle"]["version"]
        assert why(service, newer["id"]).bundle.version == other.version
        service.services.explanations._explanations.release()
        assert why(service, inspection["id"]) == before, "opened for the explanation, as it is not in use any more"
        assert service.inspect(WIDE).json()["bundle"]["version"] == other.version


def test_map_that_cannot_be_reproduced_is_not_explained(serve: Serve, models: Path) -> None:
    with serve(models=models) as service:
        inspection = service.inspect(WIDE).json()
        (path,) = service.settings.data.rglob(f"{inspection['id']}*.npy")
        anomaly_map = np.load(path)
        np.save(path, anomaly_map * np.float32(1.01))
        response = get(service, inspection["id"])
        assert problem(response) == (409, "explanation-differs")
        np.save(path, anomaly_map)
        assert get(service, inspection["id"]).status_code == 200


def test_spot_of_a_tiled_image_is_explained(serve: Serve, tmp_path: Path) -> None:
    origins = gray_origins()
    views = [view.model_copy(update={"box": (0.5, 0.0, 0.5, 1.0)}) for view in origins.index.views]
    index = origins.index.model_copy(update={"views": views})
    geometry = InputGeometry(height=SIZE, width=SIZE, tiling=Tiling(overlap=16))
    write_explained_bundle(
        tmp_path / "models", origins=type(origins)(index, origins.jpegs, origins.banks), input=geometry
    )
    with serve(models=tmp_path / "models") as service:
        image = part(width=300, height=200, spot=(201, 77, 9))
        found = why(service, service.inspect(encode(image)).json()["id"])
        left, top, _, _ = found.cell.box
        assert (found.cell.rows, found.cell.columns) == (50, 75)
        assert 196 <= left <= 212
        assert 72 <= top <= 88
        nearest = only(found)
        assert in_cell(nearest.spot).max() > 240
        assert nearest.patch is not None
        assert nearest.image is not None
        row, column = PLACES[nearest.prototype]
        # The view is the right half of the image, 2 x 64 pixels wide.
        assert nearest.image.cell == pytest.approx((SIZE + column * 8, row * 8, 8, 8))
        assert in_cell(nearest.patch).mean() == pytest.approx(GRAYS[nearest.prototype], abs=2)


def test_memory_of_the_graphs_is_returned(serve: Serve, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanations, "RELEASE_AFTER_S", 0.2)
    with serve(models=models) as service:
        inspection = service.inspect(WIDE).json()["id"]
        first = why(service, inspection)
        opened = service.services.explanations._explanations._open
        wait_for(lambda: not opened)
        assert why(service, inspection) == first


def command(service: RunningService, models: Path, *arguments: str | Path) -> Any:
    return run("inspections", "why", *arguments, "--models", models, "--data", service.settings.data)


def test_command_explains_without_the_service(serve: Serve, models: Path, tmp_path: Path) -> None:
    with serve(models=models) as service:
        inspection = service.inspect(WIDE).json()["id"]
        expected = why(service, inspection)
    out = tmp_path / "patches"
    out.mkdir()
    shown = command(service, models, inspection, "--out", out)
    assert shown.exit_code == 0, shown.output
    assert "the highest value" in shown.output
    assert "good/153.png, date unknown" in shown.output
    assert sorted(path.name for path in out.iterdir()) == [
        f"{inspection}-normal-bank.jpg", f"{inspection}-spot.jpg"
    ]  # fmt: skip
    as_json = command(service, models, inspection, "--json")
    assert WhyRecord.model_validate(json.loads(as_json.stdout)) == expected
    dated = command(service, models, inspection, "--x", "0", "--y", "0")
    assert "taken on 2026-03-01 according to its name" in dated.output
    assert command(service, models, inspection, "--x", "0").exit_code == 2
    assert command(service, models, inspection, "--out", tmp_path / "missing").exit_code == 2
    unknown = command(service, models, "01900000-0000-7000-8000-000000000000")
    assert unknown.exit_code == 1
    assert "01900000-0000-7000-8000-000000000000" in unknown.output
