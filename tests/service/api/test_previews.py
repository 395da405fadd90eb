"""Previews over HTTP: sizes, colours, caching, invalid images, camera buffers, and files that are gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import pytest

from service.store.retention import mark_removed
from tests.bundles import part
from tests.problems import assert_problem
from tests.running_service import BAD, GOOD, HttpService, RunningService, Serve, encode
from tests.service.api.test_artefacts import wait_for


def preview(service: HttpService, url: str, **params: Any) -> httpx.Response:
    options = {"headers": params.pop("headers", None)}
    return service.client.get(f"{url}/preview", params=params, **options)


def stored(service: HttpService, image: bytes = GOOD, **options: Any) -> str:
    response = service.inspect(image, **options)
    assert response.status_code == 201, response.text
    return str(response.json()["links"]["self"])


def pixels(response: httpx.Response) -> npt.NDArray[np.uint8]:
    """Return a decoded preview: RGB, or RGBA with transparency."""
    assert response.status_code == 200, response.text
    image = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    code = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(image, code), np.uint8)


@contextmanager
def counted(service: RunningService) -> Iterator[list[tuple[Any, ...]]]:
    """Record the previews that are drawn."""
    drawn: list[tuple[Any, ...]] = []
    previews = service.services.previews
    draw = previews._draw

    def record(*arguments: Any) -> bytes:
        drawn.append((arguments[0].id, *arguments[1:3]))
        return draw(*arguments)

    previews._draw = record  # type: ignore[assignment,method-assign]
    try:
        yield drawn
    finally:
        del previews._draw


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [((640, 480), 320, (320, 240)), ((480, 640), 64, (48, 64)), ((64, 64), 2048, (64, 64)), ((3000, 8), 64, (64, 1))],
)
def test_layers_have_the_same_limited_size(
    service: HttpService, size: tuple[int, int], max_side: int, expected: tuple[int, int]
) -> None:
    url = stored(service, encode(part(width=size[0], height=size[1])))
    image, overlay = (preview(service, url, layer=layer, max_side=max_side) for layer in ("image", "overlay"))
    assert (image.headers["content-type"], overlay.headers["content-type"]) == ("image/jpeg", "image/png")
    assert pixels(image).shape == (expected[1], expected[0], 3)
    assert pixels(overlay).shape == (expected[1], expected[0], 4)


def test_layer_over_the_image_is_the_heatmap(service: HttpService) -> None:
    url = stored(service, BAD)
    heatmap = pixels(service.client.get(f"{url}/heatmap", params={"format": "png"})).astype(float)
    image = pixels(service.client.get(f"{url}/image", params={"format": "png"})).astype(float)
    overlay = pixels(preview(service, url, layer="overlay")).astype(float)
    assert overlay[40, 50, 3] == 0, "transparent where the part is good"
    assert overlay[34, 24, 3] == 255, "opaque above the fail threshold"
    weight = overlay[..., 3:] / 255 * 0.6
    blended = image * (1 - weight) + overlay[..., :3] * weight
    inner = np.s_[32:36, 22:26]  # without the outlines of the region
    assert np.abs(blended - heatmap)[inner].max() <= 1


def test_preview_is_kept_by_browsers(service: HttpService) -> None:
    url = stored(service)
    found = preview(service, url)
    assert found.headers["cache-control"] == "private, max-age=86400, immutable"
    tag = found.headers["etag"]
    for names in (tag, f'"x", W/{tag}', "*"):
        again = preview(service, url, headers={"if-none-match": names})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["cache-control"] == found.headers["cache-control"]
    assert preview(service, url, headers={"if-none-match": '"x"'}).status_code == 200
    others = [preview(service, url, **params) for params in ({"layer": "overlay"}, {"max_side": 64})]
    assert len({tag, *(other.headers["etag"] for other in others)}) == 3


def test_preview_is_drawn_once(service: RunningService) -> None:
    url = stored(service, BAD)
    with counted(service) as drawn:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: preview(service, url, layer="overlay").content, range(16)))
        assert len(set(found)) == 1
        assert preview(service, url).status_code == 200
        assert preview(service, url).status_code == 200
        assert [layer for _, layer, _ in drawn] == ["overlay", "image"]
        head = service.client.head(f"{url}/preview", params={"max_side": 100})
        assert (head.status_code, head.content) == (200, b"")
        assert "etag" in head.headers
        assert len(drawn) == 2, "HEAD draws nothing"


def test_cache_is_bounded(serve: Serve) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    with serve(preview_cache_bytes=10_000) as service:
        urls = [stored(service, encode(np.roll(noise, number, axis=0))) for number in range(4)]
        with counted(service) as drawn:
            for url in (*urls, urls[-1], urls[0]):
                assert preview(service, url).status_code == 200
            assert service.services.previews._cache.used_bytes <= 10_000
            assert len(drawn) == 5, "the newest is kept, the oldest is drawn again"


def test_invalid_image_has_a_transparent_layer(serve: Serve) -> None:
    with serve() as service:
        recipe = {"author": "a", "reason": "b", "quality": {"min_brightness": 60}}
        changed = service.client.put("/v1/products/widget/recipe", json=recipe)
        assert changed.status_code == 200, changed.text
        url = stored(service, encode(part(brightness=5)))
        assert service.client.get(url).json()["decision"] == "invalid"
        assert pixels(preview(service, url, layer="overlay"))[..., 3].max() == 0
        assert pixels(preview(service, url)).max() <= 8
        (file,) = service.settings.data.rglob("*.png")
        file.unlink()
        assert_problem(preview(service, url, layer="overlay", max_side=64), 410, "artefact-gone")


def test_camera_buffer_is_shown_as_it_was_judged(service: HttpService) -> None:
    gray = np.full((64, 64), 2048, "<u2")
    gray[30:38, 20:28] = 4095
    headers = {"x-pixel-format": "Mono12", "x-width": "64", "x-height": "64"}
    url = stored(service, gray.tobytes(), headers=headers)
    converted = pixels(service.client.get(f"{url}/image", params={"format": "png"})).astype(int)
    shown = pixels(preview(service, url)).astype(int)
    assert np.abs(shown - converted).mean() < 3
    assert shown[34, 24].min() > 240
    assert pixels(preview(service, url, layer="overlay"))[34, 24, 3] == 255


def test_sixteen_bit_image_is_shown_as_it_was_judged(service: HttpService) -> None:
    deep = part(spot=(20, 30, 8)).astype(np.uint16) * 257
    url = stored(service, cv2.imencode(".png", deep)[1].tobytes())
    converted = pixels(service.client.get(f"{url}/image", params={"format": "png"})).astype(int)
    assert np.abs(pixels(preview(service, url)).astype(int) - converted).mean() < 3


@pytest.mark.parametrize("layer", ["image", "overlay"])
def test_preview_of_removed_files_is_gone(serve: Serve, layer: str) -> None:
    with serve() as service:
        kept, cached = stored(service), stored(service)
        tag = preview(service, cached, layer=layer).headers["etag"]
        files = list(service.settings.data.rglob("*.png")) + list(service.settings.data.rglob("*.npy"))
        for file in files:
            file.unlink()
        assert_problem(preview(service, kept, layer=layer), 410, "artefact-gone")
        assert service.client.head(f"{kept}/preview", params={"layer": layer}).status_code == 410
        mark_removed(service.store.engine, [UUID(cached.rpartition("/")[2])], datetime.now(UTC))
        assert_problem(preview(service, cached, layer=layer), 410, "artefact-gone")
        given = {"if-none-match": tag}
        assert_problem(preview(service, cached, layer=layer, headers=given), 410, "artefact-gone")


def test_stored_image_that_cannot_be_decoded_is_a_problem(serve: Serve) -> None:
    with serve() as service:
        url = stored(service)
        (file,) = service.settings.data.rglob("*.png")
        file.write_bytes(GOOD[:-30])
        assert_problem(preview(service, url), 409, "stored-image-unreadable")
        assert preview(service, url, layer="overlay").status_code == 200, "it needs the map only"


@pytest.mark.parametrize("params", [{"layer": "map"}, {"max_side": 63}, {"max_side": 2049}, {"size": 100}])
def test_parameters_that_are_not_valid_are_refused(service: HttpService, params: dict[str, Any]) -> None:
    assert_problem(preview(service, stored(service), **params), 422, "invalid-request")


def test_drawing_without_waiting_clients_is_cancelled(serve: Serve) -> None:
    with serve() as service:
        url = stored(service)
        drawings = service.services.previews._drawings
        released = threading.Event()
        for _ in range(drawings.pool._max_workers):
            drawings.pool.submit(released.wait, 30)
        connections = [service.connect() for _ in range(2)]
        for connection in connections:
            connection.sendall(f"GET {url}/preview HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_for(lambda: bool(drawings.admission.depth == 1))
        connections[0].close()
        connections[1].close()
        wait_for(lambda: bool(drawings.admission.depth == 0))
        released.set()
        assert preview(service, url).status_code == 200


def test_drawing_ends_at_the_deadline(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(queue_deadline_s=0.3) as service:
        url = stored(service)
        drawings = service.services.previews._drawings
        released = threading.Event()
        for _ in range(drawings.pool._max_workers):
            drawings.pool.submit(released.wait, 30)
        try:
            assert_problem(preview(service, url), 503, "deadline-exceeded")
        finally:
            released.set()
        assert preview(service, url).status_code == 200
