"""The content of a body decides its format; the Content-Type only says that it is an image."""

from __future__ import annotations

import pytest

from tests.running_service import GOOD, INSPECT, HttpService


@pytest.mark.parametrize(
    "content_type",
    [
        "image/jpg",
        "image/pjpeg",
        "image/tif",
        "image/x-ms-bmp",
        "image/x-png",
        "image/*",
        "image/heic",
        "IMAGE/JPG; charset=binary",
        "application/octet-stream",
    ],
)
def test_every_content_type_of_an_image_is_inspected_by_content(service: HttpService, content_type: str) -> None:
    response = service.inspect(GOOD, headers={"content-type": content_type})
    assert response.status_code == 201
    assert response.json()["image"]["media_type"] == "image/png"


@pytest.mark.parametrize("content_type", ["text/plain", "video/mp4", "application/json", "imagejpeg", ""])
def test_other_content_types_are_refused(service: HttpService, content_type: str) -> None:
    response = service.client.post(INSPECT, content=GOOD, headers={"content-type": content_type})
    assert (response.status_code, response.json()["type"]) == (415, "/problems#unsupported-media-type")


@pytest.mark.parametrize(
    ("accept", "expected", "begins"),
    [
        ("image/jpg", "image/jpeg", b"\xff\xd8\xff"),
        ("image/pjpeg", "image/jpeg", b"\xff\xd8\xff"),
        ("image/x-png", "image/png", b"\x89PNG"),
        ("image/jpg;q=0.9, image/png;q=0.1", "image/jpeg", b"\xff\xd8\xff"),
    ],
)
def test_other_names_of_a_media_type_are_understood_in_accept(
    service: HttpService, accept: str, expected: str, begins: bytes
) -> None:
    response = service.inspect(GOOD, headers={"content-type": "image/png", "accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (201, expected)
    assert response.content.startswith(begins)
    heatmap = service.client.get(
        f"/v1/inspections/{response.headers['x-plumbline-id']}/heatmap", headers={"accept": accept}
    )
    assert (heatmap.status_code, heatmap.headers["content-type"]) == (200, expected)
