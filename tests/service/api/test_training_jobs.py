"""Training jobs over the API: good images in, claims and reports of a worker, cancellation, removal of the images."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from service.store.artefacts.local import LocalFiles
from service.store.errors import StoreUnavailable
from tests.access import bearer, make_key, problem_of
from tests.bundles import part
from tests.proposals import zipped
from tests.running_service import GOOD, RunningService, Serve, encode

IMAGES = "/v1/products/widget/good-images"
JOBS = "/v1/products/widget/training-jobs"
CLAIM = "/v1/training-jobs:claim"
ZIP = {"content-type": "application/zip"}


def good(seed: int) -> bytes:
    return encode(part() + np.random.default_rng(seed).integers(0, 3, (64, 64, 3), np.uint8))


def goods(count: int = 8) -> dict[str, bytes]:
    return {f"2026-03-01/{number}.png": good(number) for number in range(count)}


def send(service: RunningService, files: Mapping[str, bytes] | None = None, **params: Any) -> httpx.Response:
    content = zipped(goods() if files is None else files)
    return service.client.post(IMAGES, content=content, headers=ZIP, params={"author": "Ada", **params})


def queue(service: RunningService, **params: Any) -> dict[str, Any]:
    response = send(service, **params)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def claim(service: RunningService) -> dict[str, Any]:
    response = service.client.post(CLAIM, json={"worker": "pc-7"})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def act(service: RunningService, job: dict[str, Any], action: str, **body: Any) -> httpx.Response:
    return service.client.post(f"{JOBS}/{job['id']}:{action}", json=body)


def stored_files(service: RunningService) -> list[Path]:
    return [path for path in (service.settings.data / "inspections" / "training").rglob("*") if path.is_file()]


def metric(service: RunningService, line: str) -> float:
    found = [text for text in service.client.get("/metrics").text.splitlines() if text.startswith(f"{line} ")]
    return float(found[0].split()[-1])


def reviewed(service: RunningService, count: int, label: str = "good") -> list[str]:
    ids = []
    for seed in range(count):
        inspection = service.inspect(good(seed), params={"captured_at": "2026-02-03T10:00:00Z"}).json()
        review = service.client.post(f"/v1/inspections/{inspection['id']}:review", json={"label": label})
        assert review.status_code == 201, review.text
        ids.append(inspection["id"])
    return ids


@pytest.mark.parametrize("form", [False, True], ids=["zip", "form"])
def test_images_become_a_queued_job_with_their_files(serve: Serve, form: bool) -> None:
    with serve() as service:
        files = goods(9) | {"again.png": good(0)}
        if form:
            parts = [("image", (name, data, "image/png")) for name, data in files.items()]
            response = service.client.post(IMAGES, files=parts, params={"author": "Ada", "activate": "true"})
        else:
            response = send(service, files, activate="true")
        assert response.status_code == 202, response.text
        job = response.json()
        assert response.headers["location"] == f"{JOBS}/{job['id']}"
        assert (job["state"], job["author"], job["images"], job["duplicates"]) == ("queued", "Ada", 9, 1)
        assert (job["activate"], job["quick_only"], job["variants"]) == (True, False, ["quick"])
        assert service.client.get(response.headers["location"]).json() == job
        assert service.client.get(JOBS).json() == {"items": [job], "next_cursor": None}
        listed = service.client.get(f"{JOBS}/{job['id']}/images").json()["items"]
        sent = list(files.items())[:9]
        assert [item["name"] for item in listed] == [name for name, _ in sent]
        image = service.client.get(f"{JOBS}/{job['id']}/images/3")
        assert (image.content, image.headers["content-type"]) == (sent[2][1], "image/png")
        assert len(stored_files(service)) == 9
        assert metric(service, 'inspection_training_jobs{state="queued"}') == 1
        assert metric(service, "inspection_training_image_bytes") == sum(len(data) for _, data in sent)


def test_twenty_images_are_enough_for_the_whole_training(serve: Serve) -> None:
    with serve() as service:
        assert queue(service, files=goods(20))["variants"] == ["quick", "full"]
        assert queue(service, files=goods(20), quick_only="true")["variants"] == ["quick"]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (goods() | {"broken.png": GOOD[: len(GOOD) // 2]}, "broken.png: "),
        (goods() | {"notes.txt": b"no image"}, "notes.txt: "),
        (goods() | {"scratches/1.png": good(99)}, "the name of the folder 'scratches'"),
        (goods() | {"scratches\\1.png": good(99)}, "the name of the folder 'scratches'"),
        (goods() | {"empty.png": b""}, "empty.png: "),
        (goods(7) | {"again.png": good(0)}, "7 different good images"),
        ({}, "0 different good images"),
    ],
    ids=["broken", "no-image", "defects", "defects-windows", "empty", "too-few", "none"],
)
def test_images_that_cannot_be_used_are_refused_with_their_name(
    service: RunningService, files: dict[str, bytes], named: str
) -> None:
    response = send(service, files)
    assert problem_of(response) == (422, "invalid-request")
    assert named in response.json()["detail"]
    service.services.training._thread.submit(lambda: None).result()
    assert stored_files(service) == []
    assert service.client.get(JOBS).json()["items"] == []


def test_damaged_archive_and_other_bodies_are_refused(service: RunningService) -> None:
    damaged = service.client.post(IMAGES, content=zipped(goods())[:-40], headers=ZIP)
    assert problem_of(damaged) == (422, "bad-archive")
    assert problem_of(service.client.post(IMAGES, content=GOOD, headers={"content-type": "image/png"}))[0] == 415
    assert (
        problem_of(service.client.post(IMAGES, content=zipped(goods()), headers=ZIP, params={"speed": "1"}))[0] == 422
    )
    assert stored_files(service) == []


def test_new_product_needs_permission(serve: Serve) -> None:
    with serve() as service:
        path = "/v1/products/gadget/good-images"
        refused = service.client.post(path, content=zipped(goods()), headers=ZIP)
        assert problem_of(refused) == (404, "unknown-product")
        assert "create_product=true" in refused.json()["detail"]
        misspelt = service.client.post("/v1/products/wigdet/good-images", content=zipped(goods()), headers=ZIP)
        assert misspelt.json()["similar"] == ["widget"]
        assert "Did you mean 'widget'?" in misspelt.json()["detail"]
        params = {"create_product": "true"}
        accepted = service.client.post(path, content=zipped(goods()), headers=ZIP, params=params)
        assert accepted.status_code == 202
        assert accepted.json()["create_product"]
        bad_name = service.client.post(path.replace("gadget", "Gadget"), content=b"x", headers=ZIP, params=params)
        assert problem_of(bad_name) == (422, "invalid-request")


def test_images_beyond_the_budget_are_refused_and_nothing_stays(serve: Serve) -> None:
    with serve(max_training_bytes=2**20) as service:
        noise = np.random.default_rng(0).integers(0, 255, (8, 200, 300, 3), np.uint8)
        files = {f"{number}.png": encode(image) for number, image in enumerate(noise)}
        refused = send(service, files)
        assert problem_of(refused) == (507, "training-storage-full")
        service.services.training._thread.submit(lambda: None).result()
        assert stored_files(service) == []
        assert queue(service)["state"] == "queued"


def test_images_are_refused_if_the_disk_has_no_space_for_them(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as service:
        usage = type("Usage", (), {"free": 2**20, "total": 2**30, "used": 2**30 - 2**20})()
        monkeypatch.setattr("service.serving.archive_space.shutil.disk_usage", lambda _: usage)
        refused = send(service)
        assert problem_of(refused) == (503, "store-unavailable")
        assert stored_files(service) == []


def test_failed_write_leaves_no_job_and_no_files(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as service:
        write = LocalFiles._write
        written: list[str] = []

        def fail_later(self: LocalFiles, name: str, data: bytes) -> Any:
            written.append(name)
            if len(written) == 5:
                raise StoreUnavailable("the disk is full")
            return write(self, name, data)

        monkeypatch.setattr(LocalFiles, "_write", fail_later)
        assert problem_of(send(service)) == (503, "store-unavailable")
        service.services.training._thread.submit(lambda: None).result()
        assert stored_files(service) == []
        assert service.client.get(JOBS).json()["items"] == []


def test_one_request_with_images_at_a_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.serving.training.good_images import GoodImages

    with serve() as service:
        entered, leave = threading.Event(), threading.Event()
        add_sent = GoodImages.add_sent

        def slow(self: GoodImages, *arguments: Any) -> None:
            entered.set()
            assert leave.wait(10)
            add_sent(self, *arguments)

        monkeypatch.setattr(GoodImages, "add_sent", slow)
        found: list[httpx.Response] = []
        first = threading.Thread(target=lambda: found.append(send(service)))
        first.start()
        try:
            assert entered.wait(10)
            second = send(service)
        finally:
            leave.set()
            first.join()
        assert problem_of(second) == (503, "good-images-busy")
        assert found[0].status_code == 202


def test_reviewed_inspections_become_a_job(serve: Serve) -> None:
    with serve() as service:
        ids = reviewed(service, 8)
        for body in ({"ids": ids}, {"label": "good"}):
            response = service.client.post(IMAGES, json=body | {"author": "Ada", "quick_only": True})
            assert response.status_code == 202, response.text
            job = response.json()
            assert (job["images"], job["quick_only"], job["author"]) == (8, True, "Ada")
            names = [item["name"] for item in service.client.get(f"{JOBS}/{job['id']}/images").json()["items"]]
            assert names == [f"2026-02-03/{name}" for name in ids]
            assert service.client.get(f"{JOBS}/{job['id']}/images/1").content == good(0)


def test_camera_buffers_are_stored_as_the_image_that_was_judged(serve: Serve) -> None:
    with serve() as service:
        buffers = [np.random.default_rng(seed).integers(120, 140, (64, 64), np.uint8) for seed in range(8)]
        headers = {"x-pixel-format": "Mono8", "x-width": "64", "x-height": "64"}
        for gray in buffers:
            made = service.inspect(gray.tobytes(), headers=headers)
            assert made.status_code == 201, made.text
            service.client.post(f"/v1/inspections/{made.json()['id']}:review", json={"label": "good"})
        job = service.client.post(IMAGES, json={"label": "good"}).json()
        image = service.client.get(f"{JOBS}/{job['id']}/images/8")
        assert image.headers["content-type"] == "image/png"
        stored = cv2.imdecode(np.frombuffer(image.content, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert stored is not None
        assert np.array_equal(stored, buffers[-1])


def test_inspections_that_are_not_labelled_good_are_refused(serve: Serve) -> None:
    with serve() as service:
        ids = reviewed(service, 8)
        defect = reviewed(service, 1, "defect")
        unlabelled = service.inspect().json()["id"]
        response = service.client.post(IMAGES, json={"ids": [*ids, *defect, unlabelled]})
        assert problem_of(response) == (422, "invalid-request")
        assert f"2 of the inspections are not labelled good by reviews: {defect[0]}, {unlabelled}" in response.text
        bodies: list[dict[str, Any]] = [
            {},
            {"ids": ids, "label": "good"},
            {"ids": ids, "since": "2026-03-01T00:00:00Z"},
            {"ids": []},
        ]
        for body in bodies:
            assert problem_of(service.client.post(IMAGES, json=body)) == (422, "invalid-request")
        unknown = {"ids": ["019a0000-0000-7000-8000-000000000000"]}
        assert problem_of(service.client.post(IMAGES, json=unknown)) == (404, "unknown-inspection")
        assert problem_of(service.client.post(IMAGES.replace("widget", "gadget"), json={"label": "good"}))[0] == 404


def test_worker_claims_reports_and_finishes(serve: Serve) -> None:
    with serve(max_body_bytes=30 * 2**20, max_pixels=10**6) as service:
        none = {"job": None, "claim": 0, "lease_s": 60.0, "max_image_bytes": 30 * 2**20, "max_image_pixels": 10**6}
        assert claim(service) == none
        job = queue(service)
        found = claim(service)
        assert (found["job"]["id"], found["claim"], found["job"]["state"]) == (job["id"], 1, "running")
        assert claim(service)["job"] is None
        version = {"variant": "quick", "version": "0123456789ab", "role": "shadow"}
        told = act(service, job, "report", claim=1, stage="train", done=3, total=9, seconds=1.5, version=version)
        assert told.status_code == 200, told.text
        running = service.client.get(f"{JOBS}/{job['id']}").json()
        assert running == told.json()
        assert (running["stage"], running["done"], running["total"], running["worker"]) == ("train", 3, 9, "pc-7")
        assert running["versions"] == [version]
        assert problem_of(act(service, job, "report", claim=2, stage="train")) == (409, "training-job-not-held")
        ended = act(service, job, "finish", claim=1, outcome="succeeded")
        assert (ended.json()["state"], ended.json()["worker"]) == ("succeeded", "pc-7")
        after = service.client.get(f"{JOBS}/{job['id']}").json()
        assert not after["are_images_stored"]
        assert stored_files(service) == []
        assert problem_of(service.client.get(f"{JOBS}/{job['id']}/images/1")) == (404, "unknown-training-job")
        assert problem_of(act(service, job, "finish", claim=1, outcome="succeeded")) == (409, "training-job-not-held")
        assert metric(service, 'inspection_training_jobs_ended_total{state="succeeded"}') == 1
        assert metric(service, "inspection_training_duration_seconds_count") == 1
        assert metric(service, 'inspection_training_jobs{state="running"}') == 0


def test_findings_about_the_images_are_stored_with_the_job(serve: Serve) -> None:
    with serve() as service:
        job = queue(service)
        assert job["findings"] is None
        claim(service)
        groups = {"grouped_by": "date-in-name", "groups": ["2026-03-01"], "group_count": 1, "held_out_groups": 0}
        findings = groups | {"suspected": [3, 99]}
        assert act(service, job, "report", claim=1, stage="quick: read images", findings=findings).status_code == 200
        act(service, job, "report", claim=1, stage="quick: train")
        act(service, job, "finish", claim=1, outcome="succeeded")
        found = service.client.get(f"{JOBS}/{job['id']}").json()["findings"]
        assert found == groups | {"suspected": [{"number": 3, "name": "2026-03-01/2.png"}]}
        refused = act(service, job, "report", claim=1, stage="train", findings=findings | {"grouped_by": "luck"})
        assert problem_of(refused) == (422, "invalid-request")


def test_failure_needs_its_reason_and_keeps_the_images(serve: Serve) -> None:
    with serve() as service:
        job = queue(service)
        claim(service)
        for body in ({"outcome": "failed"}, {"outcome": "succeeded", "error": "no"}):
            assert problem_of(act(service, job, "finish", claim=1, **body)) == (422, "invalid-request")
        ended = act(service, job, "finish", claim=1, outcome="failed", error="all images show the same part").json()
        assert (ended["state"], ended["error"]) == ("failed", "all images show the same part")
        service.services.training.sweep()
        assert len(stored_files(service)) == 8
        service.services.training._failed_age = timedelta(0)
        service.services.training.sweep()
        assert stored_files(service) == []


def test_cancelled_job_is_not_given_to_a_worker(serve: Serve) -> None:
    with serve() as service:
        job = queue(service)
        assert act(service, job, "cancel").json()["state"] == "cancelled"
        assert claim(service)["job"] is None
        assert stored_files(service) == []
        assert problem_of(act(service, job, "cancel")) == (409, "training-job-ended")
        running = queue(service)
        claim(service)
        assert act(service, running, "cancel").json()["cancel_requested"]
        assert act(service, running, "report", claim=1, stage="train").json()["cancel_requested"]
        assert act(service, running, "finish", claim=1, outcome="cancelled").json()["state"] == "cancelled"


def test_job_of_a_lost_worker_is_claimed_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as service:
        job = queue(service)
        with monkeypatch.context() as patch:
            patch.setattr("service.serving.training.jobs.LEASE_S", -1.0)
            claim(service)
        again = claim(service)
        assert (again["job"]["id"], again["claim"]) == (job["id"], 2)
        assert metric(service, "inspection_training_workers_lost_total") == 1


def test_restricted_keys_see_their_products_only(serve: Serve) -> None:
    with serve() as service:
        job = queue(service)
        engine = service.store.engine
        other = bearer(make_key(engine, "inspect", "engineer", products=["gadget"]))
        station = bearer(make_key(engine, "inspect", stations=["A"]))
        service.app.state.access._require("test")
        client = service.client
        assert client.post(CLAIM, json={"worker": "w"}, headers=other).json()["job"] is None
        assert problem_of(client.get(f"{JOBS}/{job['id']}", headers=other)) == (403, "not-permitted")
        assert problem_of(client.get(JOBS, headers=station)) == (403, "not-permitted")
        own = bearer(make_key(engine, "engineer", products=["widget"]))
        assert client.post(CLAIM, json={"worker": "w"}, headers=own).json()["job"]["id"] == job["id"]


def test_queueing_and_cancelling_are_in_the_audit_log(serve: Serve) -> None:
    with serve() as service:
        job = queue(service)
        act(service, job, "cancel")
        items = service.client.get("/v1/audit", params={"product": "widget"}).json()["items"]
        found = [(item["action"], item["object"]) for item in items if item["action"].startswith("training:")]
        assert found == [("training:cancel", job["id"]), ("training:queue", job["id"])]
