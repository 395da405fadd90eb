"""A worker process and a service process: from images of a new product to bundles that judge."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

from plumbline_client import Client
from plumbline_client.schemas.training import TrainingJob
from tests.serving import ROOT, ServiceProcess, service_process
from tests.training.small_product import plate
from training.split import MIN_FEW_IMAGES, MIN_TRAINING_IMAGES

DEADLINE_S = 280.0


def plates(count: int) -> list[tuple[str, bytes]]:
    return [(f"{number:03d}.png", cv2.imencode(".png", plate(number)[0])[1].tobytes()) for number in range(count)]


def command(url: str, work: Path, *options: str) -> list[str]:
    # The worker is the same with every network; that of the method `small` is exported faster.
    fast = ("--method", "small", "--input-size", "96", "--threads", "1", "--allow-weak", "--name", "bench")
    return [
        sys.executable,
        "-m",
        "tests.training.small_cli",
        "worker",
        "--url",
        url,
        "--work",
        str(work),
        *fast,
        *options,
    ]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_")}


def work_once(url: str, work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(url, work, "--once", *options),
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[ServiceProcess, Client]]:
    (tmp_path / "models").mkdir()
    with service_process(tmp_path / "models", tmp_path / "data") as service, Client(service.url) as client:
        yield service, client


def wait_for(client: Client, job: TrainingJob, condition: Callable[[TrainingJob], bool]) -> TrainingJob:
    deadline = time.monotonic() + DEADLINE_S
    while not condition(found := client.training_job(job.product, job.id)):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def test_numbers_of_images_are_those_of_the_training() -> None:
    from service.schemas.training import MIN_FULL_IMAGES, MIN_QUICK_IMAGES

    assert MIN_QUICK_IMAGES == MIN_FEW_IMAGES
    assert MIN_FULL_IMAGES == MIN_TRAINING_IMAGES + 10, "and as many held-out images as `scan` needs"


def test_worker_without_a_service_says_so(tmp_path: Path) -> None:
    done = work_once("http://127.0.0.1:9", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "is unreachable" in done.stderr


@pytest.mark.slow
def test_new_product_is_taught_and_its_next_bundle_runs_as_shadow(
    served: tuple[ServiceProcess, Client], tmp_path: Path
) -> None:
    service, client = served
    images, work = plates(9), tmp_path / "work"
    assert "no job is queued" in work_once(service.url, work).stdout
    job = client.teach_product("plate", images[:8], activate=True, quick_only=True, create_product=True, author="Ada")
    done = work_once(service.url, work, "--models", str(tmp_path / "copies"))
    assert done.returncode == 0, done.stderr
    ended = client.training_job("plate", job.id)
    assert (ended.state, ended.worker, ended.are_images_stored) == ("succeeded", "bench", False)
    (first,) = ended.versions
    assert (first.variant, first.role) == ("quick", "active")
    assert client.bundles("plate").active == first.version
    assert [path.name for path in (tmp_path / "copies" / "plate").iterdir()] == [first.version]
    assert client.inspect("plate", images[8][1]).bundle.version == first.version

    ids = [client.inspect("plate", data).id for _, data in images]
    for inspection_id in ids:
        client.review(inspection_id, "good")
    again = client.teach_from_inspections("plate", quick_only=True, author="Ada")
    assert again.images == 9
    done = work_once(service.url, work)
    assert done.returncode == 0, done.stderr
    (second,) = client.training_job("plate", again.id).versions
    assert (second.role, client.bundles("plate").shadow) == ("shadow", second.version)
    assert list(work.glob("*/*")) == []


@pytest.mark.slow
def test_interrupted_worker_releases_the_job_and_continues_it_until_it_is_cancelled(
    served: tuple[ServiceProcess, Client], tmp_path: Path
) -> None:
    service, client = served
    work, endless = tmp_path / "work", ("--iterations", "100000")
    job = client.teach_product("plate", plates(20), activate=True, create_product=True)
    assert job.variants == ["quick", "full"]

    def is_training(found: TrainingJob) -> bool:
        return found.state == "running" and found.stage == "full: train" and found.done > 0

    running = job
    for ending in ("interrupt", "cancel"):
        worker = subprocess.Popen(
            command(service.url, work, *endless), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
        )
        try:
            running = wait_for(client, job, is_training)
            assert [(made.variant, made.role) for made in running.versions] == [("quick", "active")]
            if ending == "cancel":
                assert client.cancel_training("plate", job.id).cancel_requested
                wait_for(client, job, lambda found: found.state == "cancelled")
            worker.send_signal(signal.SIGINT)
            _, log = worker.communicate(timeout=DEADLINE_S)
        finally:
            worker.kill()
            worker.wait()
        assert worker.returncode == 130, log
        assert "Traceback" not in log
        if ending == "interrupt":
            assert client.training_job("plate", job.id).state == "queued"
            assert list(work.glob("plate/*/full/run/checkpoint.pt"))
    assert list(work.glob("*/*")) == []
    assert client.bundles("plate").active == running.versions[0].version


@pytest.mark.slow
def test_job_that_cannot_be_trained_fails_with_the_reason(
    served: tuple[ServiceProcess, Client], tmp_path: Path
) -> None:
    service, client = served
    job = client.teach_product("plate", plates(20), create_product=True)
    # Fewer steps than the warm-up: refused without --allow-weak.
    words = [word for word in command(service.url, tmp_path / "work", "--once") if word != "--allow-weak"]
    done = subprocess.run(
        [*words, "--iterations", "15"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    ended = client.training_job("plate", job.id)
    assert (done.returncode, ended.state) == (1, "failed"), done.stderr
    assert ended.error
    assert "warm-up" in ended.error
    assert ended.error in done.stderr
    assert ended.are_images_stored
    assert client.training_jobs("plate").items == [ended]
