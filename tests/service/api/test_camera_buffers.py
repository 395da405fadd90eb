"""Camera buffers and bit depths over HTTP: judged as declared, stored as sent, drawn as judged."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import pytest

from plumbline_client import CameraBuffer, Client, ServiceProblem
from tests.bundles import SIZE, part
from tests.running_service import INSPECT, HttpService, Serve
from tests.service.inspection.decoding.test_samples import pack_p
from tests.service.inspection.decoding.test_tiff import tiff
from tests.serving import service_process

WHO = {"author": "a", "reason": "b"}
RECIPE = "/v1/products/widget/recipe"
RAW = {"content-type": "application/octet-stream"}
HEADERS = RAW | {"x-pixel-format": "Mono12p", "x-width": str(SIZE), "x-height": str(SIZE)}
# Gray in 12 bits, good for the tiny graph, and the same with a white square, a defect.
GOOD12 = np.full((SIZE, SIZE), 0x800, np.uint16)
BAD12 = GOOD12.copy()
BAD12[30:38, 20:28] = 0xFFF


def send(service: HttpService, data: bytes, **headers: str) -> dict[str, Any]:
    response = service.client.post(INSPECT, content=data, headers=HEADERS | headers)
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


def pixels_of(png: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def test_buffer_is_judged_like_the_same_image_as_a_file(service: HttpService) -> None:
    good, bad = send(service, pack_p(GOOD12, 12)), send(service, pack_p(BAD12, 12))
    as_file = service.inspect(tiff((BAD12 << 4).astype(np.uint16))).json()

    assert (good["decision"], bad["decision"]) == ("pass", "fail")
    assert (bad["score"], bad["regions"]) == (as_file["score"], as_file["regions"])
    assert bad["image"]["media_type"] == "application/octet-stream"
    assert (bad["image"]["width"], bad["image"]["height"]) == (SIZE, SIZE)
    assert bad["image"]["pixels"]["layout"] == {
        "pixel_format": "Mono12p", "width": SIZE, "height": SIZE, "stride": None,
    }  # fmt: skip
    assert as_file["image"]["pixels"] is None


def test_buffer_is_stored_byte_by_byte_with_its_layout(service: HttpService) -> None:
    lines = [pack_p(line[None], 12) + bytes(4) for line in BAD12]
    data, stride = b"".join(lines), len(lines[0])
    stored = send(service, data, **{"x-stride": str(stride)})

    response = service.client.get(stored["links"]["image"])

    assert response.content == data
    assert stored["image"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert response.headers["content-type"] == "application/octet-stream"
    layout = {name: response.headers[name] for name in ("x-pixel-format", "x-width", "x-height", "x-stride")}
    # The returned buffer can be sent again unchanged.
    again = service.client.post(INSPECT, content=response.content, headers=RAW | layout).json()
    assert (again["score"], again["image"]) == (stored["score"], stored["image"])


def test_buffer_can_be_converted_to_an_image(service: HttpService) -> None:
    stored = send(service, pack_p(BAD12, 12))

    shown = pixels_of(service.client.get(stored["links"]["image"], params={"format": "png"}).content)
    heatmap = pixels_of(service.client.get(stored["links"]["heatmap"], params={"format": "png"}).content)

    np.testing.assert_array_equal(shown, part(spot=(20, 30, 8)))
    assert heatmap.shape == (SIZE, SIZE, 3)


def test_converted_png_is_judged_like_the_buffer(service: HttpService) -> None:
    # Images collected from the store for training have the same pixels as the camera's.
    stored = send(service, pack_p(BAD12, 12))
    png = service.client.get(stored["links"]["image"], params={"format": "png"}).content
    assert service.inspect(png).json()["score"] == stored["score"]


def test_form_may_carry_a_buffer(service: HttpService) -> None:
    headers = {name: value for name, value in HEADERS.items() if name != "content-type"}
    files = {"image": ("frame", pack_p(BAD12, 12), "application/octet-stream")}
    response = service.client.post(INSPECT, files=files, data={"part_id": "7"}, headers=headers)
    assert (response.status_code, response.json()["decision"], response.json()["part_id"]) == (201, "fail", "7")


def test_colour_of_a_bayer_camera_arrives(service: HttpService) -> None:
    mosaic = np.tile(np.array([[200, 90], [90, 10]], np.uint8), (SIZE // 2, SIZE // 2))
    stored = send(service, mosaic.tobytes(), **{"x-pixel-format": "BayerRG8"})
    shown = pixels_of(service.client.get(stored["links"]["image"], params={"format": "png"}).content)
    assert shown[10, 10].tolist() == [10, 90, 200]  # OpenCV reads BGR


@pytest.mark.slow
def test_recipe_declares_bit_depth_and_levels(serve: Serve) -> None:
    # A 12-bit camera that writes 16-bit TIFF. Without the setting its images are almost black.
    with serve() as service:
        dark = service.inspect(tiff(GOOD12)).json()
        response = service.client.put(RECIPE, json=WHO | {"pixels": {"bit_depth": 12}})
        assert response.status_code == 200, response.text
        right = service.inspect(tiff(GOOD12)).json()
        response = service.client.put(RECIPE, json=WHO | {"pixels": {"black_level": 0x780, "white_level": 0x880}})
        assert response.json()["recipe"]["pixels"]["bit_depth"] == 12, "what is not named stays"
        stretched = service.inspect(tiff(GOOD12)).json()

        assert (dark["decision"], right["decision"]) == ("fail", "pass")
        assert right["image"]["pixels"]["bit_depth"] == 12
        assert abs(stretched["score"] - right["score"]) < 0.01
        assert stretched["recipe_revision"] == 3
        # An image that was judged with another recipe is drawn with the settings of that recipe.
        for stored, gray in ((dark, 8), (right, 128), (stretched, 127)):
            shown = pixels_of(service.client.get(stored["links"]["image"], params={"format": "png"}).content)
            assert shown[0, 0].tolist() == [gray] * 3


def test_recipe_supplies_values_that_the_sender_omits(serve: Serve) -> None:
    with serve() as service:
        declared = {"pixel_format": "Mono12p", "width": SIZE, "height": SIZE}
        assert service.client.put(RECIPE, json=WHO | {"pixels": declared}).status_code == 200
        response = service.client.post(INSPECT, content=pack_p(BAD12, 12), headers=RAW | {"x-width": str(SIZE)})
        assert (response.status_code, response.json()["decision"]) == (201, "fail")


@pytest.mark.slow
def test_client_sends_buffers(serve: Serve) -> None:
    with serve() as service, Client(f"http://127.0.0.1:{service.port}", retries=0) as client:
        buffer = CameraBuffer("Mono12p", SIZE, SIZE)
        verdict = client.inspect("widget", pack_p(BAD12, 12), buffer=buffer)
        assert verdict.decision == "fail"
        np.testing.assert_array_equal(pixels_of(client.image(verdict.id, as_png=True)), part(spot=(20, 30, 8)))
        with pytest.raises(ServiceProblem, match="6144"):
            client.inspect("widget", b"short", buffer=buffer)


@pytest.mark.slow
def test_buffer_survives_a_restart_of_the_process(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", {"provider": "cpu"}) as process:
        process.wait_until(200)
        response = httpx.post(process.url + INSPECT, content=pack_p(BAD12, 12), headers=HEADERS)
        assert response.json()["decision"] == "fail"
        heatmap = httpx.get(f"{process.url}{response.json()['links']['heatmap']}?format=png").content
    with service_process(tiny_models, tmp_path / "data", {"provider": "cpu"}) as process:
        process.wait_until(200)
        assert httpx.get(process.url + response.json()["links"]["self"]).json() == response.json()
        assert httpx.get(f"{process.url}{response.json()['links']['heatmap']}?format=png").content == heatmap
