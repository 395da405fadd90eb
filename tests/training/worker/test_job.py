"""A job from its claim to its end, as far as nothing is trained: missing images, refused texts, folders of old jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import httpx
import pytest

from plumbline_client import Client
from plumbline_client.schemas.training import TrainingClaim, TrainingEnd, TrainingJob
from service.inspection.decoding.decoder import ImageLimits
from tests.training.small_product import plate
from tests.training.worker.test_heartbeat import JOB, client_of, problem
from training.dataset import scan
from training.errors import WeakBundle
from training.fit import CHECKPOINT_NAME
from training.image_limits import image_limits
from training.methods import fit_config
from training.pipeline import Request
from training.worker.job import JobOptions, remove_ended, run_job
from training.worker.stop import StopRequest

IMAGE = {"number": 1, "name": "a.png", "media_type": "image/png", "size_bytes": 4, "sha256": "0" * 64}


def outcome_of(client: Client, work: Path) -> str | None:
    claim = TrainingClaim(
        job=TrainingJob.model_validate(JOB), claim=3, lease_s=60.0, max_image_bytes=2**25, max_image_pixels=10**8
    )
    return run_job(client, claim, JobOptions(work, configs={}), StopRequest())


def service(
    ends: list[dict[str, Any]], answer: Callable[[httpx.Request], httpx.Response]
) -> Callable[[httpx.Request], httpx.Response]:
    """Return a service with one job of one image, which answers requests for that image with `answer`."""

    def handler(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.endswith(":finish"):
            ends.append(json.loads(request.content))
        if path.endswith("/images"):
            return httpx.Response(200, json={"items": [IMAGE]})
        return answer(request) if path.endswith("/images/1") else httpx.Response(200, json=JOB)

    return handler


def with_images(
    count: int, answer: Callable[[httpx.Request], httpx.Response]
) -> Callable[[httpx.Request], httpx.Response]:
    """Return a service with one job of images of two lots, which answers all other requests with `answer`."""
    images = [cv2.imencode(".png", plate(number)[0])[1].tobytes() for number in range(count)]
    records = [
        IMAGE | {"number": number, "name": f"lot{number % 2}/{number}.png", "sha256": hashlib.sha256(data).hexdigest()}
        for number, data in enumerate(images, 1)
    ]

    def handler(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.endswith("/images"):
            return httpx.Response(200, json={"items": records})
        if "/images/" in path:
            return httpx.Response(200, content=images[int(path.rpartition("/")[2]) - 1])
        return answer(request)

    return handler


def test_job_whose_image_is_no_longer_stored_fails_with_the_reason(tmp_path: Path) -> None:
    ends: list[dict[str, Any]] = []
    client = client_of(service(ends, lambda _: problem(404, "unknown-training-job")))
    assert outcome_of(client, tmp_path) == "failed"
    assert ends == [{"claim": 3, "outcome": "failed", "error": "told"}]
    assert list(tmp_path.glob("*/*")) == []


@pytest.mark.parametrize("detail", ["", "a\0b\u202ec" + "x" * 3000])
def test_reason_of_a_failure_is_a_text_that_the_service_accepts(detail: str, tmp_path: Path) -> None:
    ends: list[dict[str, Any]] = []
    refusal = httpx.Response(400, json={"type": "x#invalid-request", "detail": detail})
    assert outcome_of(client_of(service(ends, lambda _: refusal)), tmp_path) == "failed"
    (end,) = ends
    assert TrainingEnd.model_validate(end).error


def test_end_of_a_job_is_sent_again_after_a_proxy_refused_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.worker.job.RETRY_S", 0.0)
    ends: list[dict[str, Any]] = []
    inner = service(ends, lambda _: problem(400, "invalid-request"))

    def handler(request: httpx.Request) -> httpx.Response:
        answer = inner(request)
        is_first_end = request.url.path.endswith(":finish") and len(ends) == 1
        return httpx.Response(502, text="Bad Gateway") if is_first_end else answer

    assert outcome_of(client_of(handler), tmp_path) == "failed"
    assert len(ends) == 2


@pytest.mark.slow
def test_training_begins_anew_if_the_checkpoint_is_of_another_worker(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        is_report = request.url.path.endswith(":report")
        progress: dict[str, Any] = json.loads(request.content) if is_report else {"stage": None, "done": 0}
        is_training = progress["stage"] == "full: train" and progress["done"] > 0
        return httpx.Response(200, json=JOB | {"cancel_requested": is_training})

    checkpoint = tmp_path / "washer" / JOB["id"] / "full" / "run" / CHECKPOINT_NAME
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"of another version of torch")
    config = replace(fit_config("nnet", iterations=100_000, input_size=96), threads=1)
    job = TrainingJob.model_validate(JOB | {"variants": ["full"]})
    claim = TrainingClaim(job=job, claim=3, lease_s=60.0, max_image_bytes=2**25, max_image_pixels=10**8)
    options = JobOptions(tmp_path, {"full": config}, allow_weak=True)
    assert run_job(client_of(with_images(20, answer)), claim, options, StopRequest()) == "cancelled", (
        "it trains until it is cancelled"
    )


def test_findings_are_reported_and_the_limits_of_the_service_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        reports.append(json.loads(request.content))
        return httpx.Response(200, json=JOB)

    limits: list[ImageLimits] = []

    def check_only(request: Request, _: object, __: object, on_checked: Callable[..., None]) -> None:
        limits.append(image_limits())
        on_checked(scan(request.data, few=True), [request.data / "lot1" / "3.png"])
        raise WeakBundle(["no training here"])

    monkeypatch.setattr("training.worker.job.continue_or_restart", check_only)
    options = JobOptions(tmp_path, {"quick": fit_config("nnet", quick=True)})
    job = TrainingJob.model_validate(JOB)
    claim = TrainingClaim(job=job, claim=3, lease_s=60.0, max_image_bytes=2**27, max_image_pixels=10**9)
    assert run_job(client_of(with_images(8, answer)), claim, options, StopRequest()) == "failed"
    found = [report["findings"] for report in reports if "findings" in report]
    groups = {"grouped_by": "folder", "groups": ["lot0", "lot1"], "group_count": 2, "held_out_groups": 1}
    assert found == [groups | {"suspected": [3]}]
    assert limits == [ImageLimits(max_bytes=2**27, max_pixels=10**9)]
    assert image_limits() == ImageLimits()


def test_only_folders_of_jobs_that_have_ended_are_removed(tmp_path: Path) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        return httpx.Response(200, json=JOB) if name == JOB["id"] else problem(404, "unknown-training-job")

    ended = "019a0000-0000-7000-8000-000000000001"
    for folder in (f"washer/{JOB['id']}", f"washer/{ended}", "photos/holiday"):
        (tmp_path / folder).mkdir(parents=True)
    remove_ended(client_of(handler), tmp_path)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*"))
    assert found == ["photos/holiday", f"washer/{JOB['id']}"]
