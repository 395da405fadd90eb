"""Several images in one request: results in order, independent errors, bounded memory."""

from __future__ import annotations

import io
import struct
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from plumbline_client import CameraBuffer, Client
from service.app import begin_drain
from tests.bundles import SIZE
from tests.problems import assert_problem
from tests.running_service import BAD, BOMB, GOOD, HttpService, RunningService, Serve, encode
from tests.service.api.test_bodies import BOUNDARY, END, form_part
from tests.service.api.test_camera_buffers import BAD12, GOOD12
from tests.service.inspection.decoding.test_samples import pack_p
from tests.serving import service_process

BATCH = "/v1/products/widget/inspections:batch"
ZIP = {"content-type": "application/zip"}
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def zipped(files: Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return buffer.getvalue()


def form(files: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    return {"files": [("image", (name, data, "image/png")) for name, data in files]}


def as_zip(files: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    return {"content": zipped(files), "headers": ZIP}


def words(response: httpx.Response) -> list[str]:
    """Return the decision or problem of each item."""
    assert response.status_code == 200, response.text
    items = response.json()["items"]
    assert [item["index"] for item in items] == list(range(len(items)))
    return [
        item["inspection"]["decision"] if item["problem"] is None else item["problem"]["type"].rpartition("#")[2]
        for item in items
    ]


MIXED = [("good.png", GOOD), ("bad.png", BAD), ("none.txt", b"hello"), ("cut.png", GOOD[:80]), ("again.png", GOOD)]
EXPECTED = ["pass", "fail", "not-an-image", "corrupt-image", "pass"]


@pytest.mark.parametrize("pack", [form, as_zip])
def test_results_are_in_order_and_errors_are_independent(service: HttpService, pack: Any) -> None:
    response = service.client.post(BATCH, params={"part_id": "7", "lot": "L"}, **pack(MIXED))

    assert words(response) == EXPECTED
    body = response.json()
    assert [item["name"] for item in body["items"]] == [name for name, _ in MIXED]
    assert body["counts"] == {"pass": 2, "fail": 1, "problem": 2}
    problem = body["items"][2]["problem"]
    assert problem["instance"] == f"urn:plumbline:request:{response.headers['x-request-id']}"
    assert problem["status"] == 415
    for item in body["items"]:
        if item["inspection"]:
            assert (item["inspection"]["part_id"], item["inspection"]["lot"]) == ("7", "L")
            assert service.client.get(item["inspection"]["links"]["self"]).json() == item["inspection"]


def test_problems_of_single_images_are_counted(serve: Serve) -> None:
    with serve() as service:
        assert words(service.client.post(BATCH, **form(MIXED))) == EXPECTED
        metrics = service.client.get("/metrics").text
        assert 'inspection_problems_total{type="not-an-image"} 1.0' in metrics
        assert 'inspection_requests_total{decision="pass",product="widget"} 2.0' in metrics


def test_camera_buffers_share_their_layout(service: HttpService) -> None:
    headers = {"x-pixel-format": "Mono12p", "x-width": str(SIZE), "x-height": str(SIZE)}
    frames = [("1", pack_p(GOOD12, 12)), ("2", pack_p(BAD12, 12)), ("3", b"short")]
    response = service.client.post(BATCH, headers=headers, **form(frames))
    assert words(response) == ["pass", "fail", "buffer-size-mismatch"]


@pytest.mark.slow
@pytest.mark.parametrize("pack", [form, as_zip])
def test_too_many_images_are_reported_after_the_results_before_them(serve: Serve, pack: Any) -> None:
    with serve(max_call_images=3) as service:
        response = service.client.post(BATCH, **pack([(f"{number}.png", GOOD) for number in range(3)]))
        assert words(response) == ["pass"] * 3
        response = service.client.post(BATCH, **pack([(f"{number}.png", GOOD) for number in range(5)]))
        if pack is form:
            # They were inspected before the number of images was known.
            assert words(response) == ["pass", "pass", "pass", "too-many-images"]
        else:
            assert_problem(response, 413, "too-many-images")


@pytest.mark.slow
@pytest.mark.parametrize("pack", [form, as_zip])
def test_image_that_is_too_large_does_not_affect_the_others(serve: Serve, pack: Any) -> None:
    with serve(max_body_bytes=100_000) as service:
        noise = np.random.default_rng(0).bytes(150_000)
        response = service.client.post(BATCH, **pack([("a.png", GOOD), ("huge.bin", noise), ("bomb.png", BOMB)]))
        assert words(response) == ["pass", "body-too-large", "too-many-pixels"]


def test_size_of_the_whole_request_is_limited(serve: Serve) -> None:
    with serve(max_call_bytes=1_000_000, max_body_bytes=50_000) as service:
        assert_problem(service.client.post(BATCH, content=b"x" * 1_000_001, headers=ZIP), 413, "body-too-large")
        # Without a stated length, the limit is detected while reading; images before that were inspected.
        chunks = iter([form_part("image", GOOD)] + [form_part("image", b"x" * 40_000)] * 40 + [END])
        first, *others, last = words(service.client.post(BATCH, content=chunks, headers=FORM))
        assert (first, set(others), last) == ("pass", {"not-an-image"}, "body-too-large")
        # The connection is not reset while the client is sending, and the service continues.
        assert service.inspect().status_code == 201


@pytest.mark.slow
def test_zip_bomb_is_refused_by_its_stated_and_by_its_real_size(serve: Serve) -> None:
    bomb = zipped([("zeros.bin", bytes(10_000_000))])
    assert len(bomb) < 20_000
    with serve(max_body_bytes=100_000, max_call_bytes=1_000_000) as service:
        assert_problem(service.client.post(BATCH, content=bomb, headers=ZIP), 413, "body-too-large")
    # The same archive with a wrong size in both places where the size is stated.
    liar = bomb.replace(struct.pack("<I", 10_000_000), struct.pack("<I", 1_000))
    assert liar != bomb
    with serve(max_body_bytes=100_000, max_call_bytes=1_000_000) as service:
        response = service.client.post(BATCH, content=liar, headers=ZIP)
        assert words(response) in (["bad-archive"], ["body-too-large"])


def test_names_in_an_archive_are_only_labels(service: RunningService, tmp_path: Path) -> None:
    names = [
        "../../etc/passwd",
        "/absolute.png",
        "C:\\windows.png",
        "folder/",
        "__MACOSX/a.png",
        "x" * 1000,
        "a\nb.png",
    ]
    files = [(name, b"" if name.endswith("/") else GOOD) for name in names]
    response = service.client.post(BATCH, content=zipped(files), headers=ZIP)
    assert words(response) == ["pass"] * 5
    labels = [item["name"] for item in response.json()["items"]]
    assert labels == ["../../etc/passwd", "/absolute.png", "C:\\windows.png", "x" * 256, "a\ufffdb.png"]
    written = [path for path in service.settings.data.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} <= {".png", ".npy", ".db", ".db-wal", ".db-shm", ".lock", ".raw"}


def test_encrypted_damaged_and_empty_files_do_not_affect_the_others(service: HttpService) -> None:
    archive = bytearray(zipped([("a.png", GOOD), ("b.png", BAD), ("c.png", b""), ("d.png", GOOD)], zipfile.ZIP_STORED))
    place = archive.find(BAD)
    archive[place + 50] ^= 0xFF  # makes its checksum wrong
    directory = archive.rfind(b"PK\x01\x02")
    archive[directory + 8] |= 1  # marks the last one as encrypted
    response = service.client.post(BATCH, content=bytes(archive), headers=ZIP)
    assert words(response) == ["pass", "bad-archive", "invalid-request", "invalid-request"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "slug"),
    [
        (b"no zip", ZIP, 422, "bad-archive"),
        (b"", ZIP, 422, "invalid-request"),
        (zipped([("a.png", GOOD)])[:-30], ZIP, 422, "bad-archive"),
        (zipped([]), ZIP, 422, "invalid-request"),
        (END, FORM, 422, "invalid-request"),
        (form_part("part_id", b"7") + END, FORM, 422, "invalid-request"),
        (b"x", {"content-type": "image/png"}, 415, "unsupported-media-type"),
        (b"x", {}, 415, "unsupported-media-type"),
    ],
)
def test_request_without_an_image_fails_as_a_whole(
    service: HttpService, content: bytes, headers: dict[str, str], status: int, slug: str
) -> None:
    assert_problem(service.client.post(BATCH, content=content, headers=headers), status, slug)


def test_incomplete_form_returns_results_up_to_the_break(service: HttpService) -> None:
    data = form_part("image", GOOD) + form_part("image", BAD) + form_part("image", GOOD)[:-50]
    assert words(service.client.post(BATCH, content=data, headers=FORM)) == ["pass", "fail", "invalid-request"]


def test_directory_beyond_the_limit_is_not_parsed(serve: Serve) -> None:
    with serve(max_call_images=1) as service:
        archive = zipped([(f"{number:0100d}.png", b"x") for number in range(50)])
        assert_problem(service.client.post(BATCH, content=archive, headers=ZIP), 422, "bad-archive")


def test_images_are_inspected_while_others_are_received(service: RunningService) -> None:
    def stored() -> int:
        with httpx.Client(base_url=service.client.base_url) as other:
            return len(other.get("/v1/inspections", params={"part_id": "early"}).json()["items"])

    def slowly() -> Iterator[bytes]:
        yield form_part("image", GOOD) + form_part("image", BAD) + form_part("image", GOOD)[:-50]
        deadline = time.monotonic() + 20
        while stored() < 2:
            assert time.monotonic() < deadline, "the first two were not inspected before the last one arrived"
        yield form_part("image", GOOD)[-50:] + END

    response = service.client.post(BATCH, content=slowly(), headers=FORM, params={"part_id": "early"})
    assert words(response) == ["pass", "fail", "pass"]


def test_full_queue_makes_a_batch_wait_instead_of_failing(serve: Serve) -> None:
    with serve(queue_limit=1, max_batch=1) as service:
        assert words(service.client.post(BATCH, **form([("a.png", GOOD)] * 8))) == ["pass"] * 8
        assert service.admission.depth == 0


def test_stopping_service_refuses_the_request_as_a_whole(serve: Serve) -> None:
    with serve() as service:
        begin_drain(service.app)
        for send in (form, as_zip):
            assert_problem(service.client.post(BATCH, **send(MIXED)), 503, "shutting-down")
        shed = 'inspection_shed_total{reason="shutting_down"} 2.0'
        assert shed in service.client.get("/metrics").text


@pytest.mark.slow
@pytest.mark.parametrize("media_type", [FORM, ZIP])
def test_request_that_is_received_when_the_service_begins_to_drain_is_refused_as_a_whole(
    serve: Serve, media_type: dict[str, str]
) -> None:
    files = [("empty.png", b""), *MIXED]
    parts = b"".join(form_part("image", content, filename=name) for name, content in files) + END
    body = zipped(files) if media_type is ZIP else parts

    with serve() as service:

        def content() -> Iterator[bytes]:
            yield body[:50]
            time.sleep(0.2)  # so that the service has accepted the request
            begin_drain(service.app)
            yield body[50:]

        response = service.client.post(BATCH, content=content(), headers=media_type)
        assert_problem(response, 503, "shutting-down")
        assert service.client.get("/v1/inspections").json()["items"] == []


def test_directory_of_an_archive_is_not_read_on_the_event_loop(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[str] = []

    class RecordingZip(zipfile.ZipFile):
        def infolist(self) -> list[zipfile.ZipInfo]:
            readers.append(threading.current_thread().name)
            time.sleep(0.05)
            return super().infolist()

    body = zipped([("a.png", GOOD)])
    monkeypatch.setattr("service.untrusted_zip.zipfile.ZipFile", RecordingZip)
    with ThreadPoolExecutor(4) as clients:
        url = f"http://127.0.0.1:{service.port}{BATCH}"
        found = [clients.submit(httpx.post, url, content=body, headers=ZIP) for _ in range(4)]
        assert [words(response.result()) for response in found] == [["pass"]] * 4
    assert readers
    assert all(name.startswith("AnyIO worker thread") for name in readers), readers


def test_read_only_service_refuses_the_request_as_a_whole(serve: Serve) -> None:
    with serve() as service:
        service.store.read_only_reason = "the disk is full"
        for send in (form, as_zip):
            response = service.client.post(BATCH, **send(MIXED))
            assert "the disk is full" in assert_problem(response, 503, "store-unavailable")["detail"]
        url = f"ws://127.0.0.1:{service.port}/v1/products/widget/stream"
        with pytest.raises(InvalidStatus) as caught, connect(url):
            pass
        assert caught.value.response.status_code == 503
        assert b"store-unavailable" in caught.value.response.body


@pytest.mark.slow
def test_client_sends_several_images(serve: Serve) -> None:
    with serve() as service, Client(f"http://127.0.0.1:{service.port}", retries=0) as client:
        response = client.inspect_batch("widget", MIXED, station="A")
        assert response.counts == {"pass": 2, "fail": 1, "problem": 2}
        assert response.items[1].inspection is not None
        assert response.items[1].inspection.station == "A"
        assert response.items[2].problem is not None
        assert response.items[2].problem.status == 415
        buffer = CameraBuffer("Mono12p", SIZE, SIZE)
        assert client.inspect_batch("widget", [("1", pack_p(BAD12, 12))], buffer=buffer).counts == {"fail": 1}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tiny_models: Path, tmp_path: Path) -> None:
    # 96 images of 2 MB each, far more than the process may grow by.
    noise = np.random.default_rng(0).integers(0, 256, (800, 900, 3), np.uint8)
    image = encode(noise, ".bmp")
    with service_process(tiny_models, tmp_path / "data", {"provider": "cpu"}) as process:
        process.wait_until(200)
        with httpx.Client(base_url=process.url, timeout=60) as client:
            short = client.post(BATCH, **form([("a.bmp", image)] * 8))
            before = process.rss_bytes()
            long = client.post(BATCH, **form([("a.bmp", image)] * 96))
            grown = process.rss_bytes() - before
        assert (len(words(short)), len(words(long))) == (8, 96)
        assert grown < 60 * 2**20, f"{grown / 2**20:.0f} MiB for {96 * len(image) / 2**20:.0f} MiB of images"
