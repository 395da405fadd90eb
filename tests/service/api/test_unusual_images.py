"""Unusual image files over HTTP: whole ones are inspected, others refused with a reason, never with a server error."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.bundle.bundle import Bundle
from tests.bundles import part
from tests.problems import assert_problem
from tests.running_service import HttpService, Serve
from tests.service.inspection.decoding.test_jpeg import restarting, scan_bomb, segment
from tests.service.inspection.decoding.test_tiff_tags import PIXELS, tiff

JPEG = {"content-type": "image/jpeg"}
RECIPE = "/v1/products/widget/recipe"
WHO = {"author": "anna", "reason": "camera with stray bytes"}
PART = np.asarray(part(), np.uint8)


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PART).save(buffer, str(options.pop("kind", "JPEG")), quality=95, **options)
    return buffer.getvalue()


def test_mpo_file_of_a_phone_is_inspected_and_drawn(service: HttpService) -> None:
    mpo = jpeg(kind="MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    response = service.inspect(mpo, headers=JPEG)
    for content_type in ("image/jpg", "application/octet-stream"):
        response = service.inspect(mpo, headers={"content-type": content_type})
        assert response.status_code == 201
        assert response.json()["image"]["media_type"] == "image/jpeg"
    drawn = service.client.get(f"/v1/inspections/{response.json()['id']}/heatmap")
    assert drawn.status_code == 200
    shown = service.client.get(f"/v1/inspections/{response.json()['id']}/image?format=png")
    assert Image.open(io.BytesIO(shown.content)).size == (64, 64)


@pytest.mark.parametrize(
    ("image", "slug", "status", "word"),
    [
        (jpeg().replace(b"\xff\xc0", b"\xff\xc3"), "unsupported-image", 415, "lossless"),
        (tiff(PIXELS, {262: None}), "unsupported-image", 415, "PhotometricInterpretation"),
        (jpeg()[:20] + segment(0xFE, b"") * 10_001 + jpeg()[20:], "image-too-complex", 413, "segments"),
    ],
)
def test_refusal_names_the_reason(service: HttpService, image: bytes, slug: str, status: int, word: str) -> None:
    problem = assert_problem(service.inspect(image, headers=JPEG), status, slug)
    assert word in problem["detail"]


def test_progressive_file_with_thousands_of_scans_is_refused_at_once(serve: Serve) -> None:
    with serve() as service:
        bomb = scan_bomb(512, 3000)
        started = time.perf_counter()
        assert_problem(service.inspect(bomb, headers=JPEG), 413, "image-too-complex")
        assert service.inspect().status_code == 201
        assert time.perf_counter() - started < 5


@pytest.mark.slow
def test_camera_with_stray_bytes_is_accepted_by_the_recipe_and_drawn_alike(serve: Serve, tiny_bundle: Bundle) -> None:
    frame, _ = restarting({0: b"\x2a" * 9, 1: b"\x2a" * 12})
    with serve() as service:
        problem = assert_problem(service.inspect(frame, headers=JPEG), 422, "corrupt-image")
        assert "pixels.tolerate_stray_bytes" in problem["detail"]
        change = service.client.put(RECIPE, json=WHO | {"pixels": {"tolerate_stray_bytes": True}})
        assert change.status_code == 200
        verdict = service.inspect(frame, headers=JPEG).json()
        assert verdict["image"]["pixels"]["tolerate_stray_bytes"] is True
        service.client.put(RECIPE, json=WHO | {"pixels": {"tolerate_stray_bytes": False}})
        for view in ("heatmap", "image?format=png"):
            assert service.client.get(f"/v1/inspections/{verdict['id']}/{view}").status_code == 200


@pytest.mark.slow
def test_option_survives_the_toml_file(serve: Serve, tmp_path: Path) -> None:
    with serve() as service:
        service.client.put(RECIPE, json=WHO | {"pixels": {"tolerate_stray_bytes": True}})
        exported = service.client.get(RECIPE, headers={"accept": "application/toml"})
        assert "tolerate_stray_bytes = true" in exported.text
