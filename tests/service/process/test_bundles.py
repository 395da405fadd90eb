"""Bundles against a real process: upload, activation under load, shadow deployment, replay."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.faults.endless_bundle import copy_slow_bundle, is_ready
from benchmarks.faults.hostile_bundles import slow_model, tiny_contents, write_unchecked
from benchmarks.swap_under_load import memory_growth, mixtures, replay_all, swap_under_load, write_tiny_pair
from plumbline_client import Client
from service.bundle.archive import write_archive
from tests.bundles import write_tiny_bundle
from tests.running_service import BAD, GOOD
from tests.serving import ROOT, service_process

pytestmark = pytest.mark.slow

CPU = {"provider": "cpu"}
WHO: dict[str, Any] = {"author": "Ada", "reason": "trial"}


def test_uploaded_and_activated_bundle_survives_a_kill(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    archive = io.BytesIO()
    bundle = write_tiny_bundle(tmp_path / "elsewhere")
    write_archive(bundle, archive)
    with service_process(models, data, CPU) as service:
        service.wait_until(503)
        with Client(service.url) as plumbline:
            assert plumbline.upload_bundle("widget", archive.getvalue(), create_product=True).state == "available"
            assert plumbline.activate_bundle("widget", bundle.version, **WHO).version == bundle.version
            service.wait_until(200)
            assert plumbline.inspect("widget", BAD).decision == "fail"
        service.kill()
    newer = write_tiny_bundle(models, created_at=bundle.manifest.created_at.replace(year=2027))
    with service_process(models, data, CPU) as service:
        service.wait_until(200)
        with Client(service.url) as plumbline:
            assert plumbline.inspect("widget", BAD).bundle.version == bundle.version, (
                "the chosen bundle, not the newest"
            )
            plumbline.activate_bundle("widget", newer.version, **WHO)
            assert plumbline.roll_back_bundle("widget", **WHO).version == bundle.version
    assert [path.name for path in models.iterdir()] == ["widget"], "the upload leaves no temporary files"


def test_activation_under_load_loses_no_image_and_every_inspection_replays(tmp_path: Path) -> None:
    # A smaller version of benchmarks/swap_under_load.py, which makes a hundred changes with eight clients.
    models, data = tmp_path / "models", tmp_path / "data"
    serving, other = write_tiny_pair(models)
    with service_process(models, data, CPU) as service:
        service.wait_until(200)
        run = swap_under_load(service, "widget", other.version, [GOOD, BAD], clients=4, swaps=10)
        history = httpx.get(f"{service.url}/v1/products/widget/recipe/revisions").json()["items"]
        assert service.terminate() == 0
    assert run.failures == []
    assert len(run.swap_s) == 10
    assert {response["bundle"]["digest"] for response in run.verdicts} == {serving.digest, other.digest}
    assert mixtures(run, history) == 0
    outcomes, complaints = replay_all(models, data)
    assert outcomes.keys() == {"same"}, complaints
    assert outcomes["same"] == len(run.verdicts)
    assert memory_growth(run) < 0.2


def test_shadow_is_compared_and_the_command_line_replays(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    serving, other = write_tiny_pair(models)
    with service_process(models, data, CPU) as service, Client(service.url) as plumbline:
        service.wait_until(200)
        plumbline.shadow_bundle("widget", other.version, **WHO)
        verdicts = [plumbline.inspect("widget", image) for image in (GOOD, BAD) * 5]
        assert {verdict.bundle.version for verdict in verdicts} == {serving.version}
        deadline = time.monotonic() + 60
        while (comparison := plumbline.compare_bundles("widget")).pairs < len(verdicts):
            assert time.monotonic() < deadline, comparison
            time.sleep(0.05)
        assert comparison.agreement["fail"]["fail"] == 5
        assert plumbline.replay(verdicts[0].id).outcome == "same"
        environment = os.environ | {
            "PLUMBLINE_MODELS": str(models),
            "PLUMBLINE_DATA": str(data),
            "PLUMBLINE_PROVIDER": "cpu",
        }
        command = [sys.executable, "-m", "service.cli.main", "replay", *(verdict.id for verdict in verdicts)]
        replayed = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert replayed.returncode == 0, replayed.stderr
        assert "10 same" in replayed.stderr


def test_bundle_that_does_not_end_delays_neither_other_products_nor_the_end_of_the_process(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    write_tiny_bundle(models)
    copy_slow_bundle(models, tmp_path)
    with service_process(models, data, CPU) as service:
        wait_for(lambda: is_ready(service.url, "widget"))
        with Client(service.url) as client:
            assert client.inspect("widget", BAD).decision == "fail"
        assert httpx.get(f"{service.url}/v1/products/gear").json()["status"] == "loading"
        since = time.monotonic()
        assert service.terminate(timeout_s=30) == 0
        assert time.monotonic() - since < 15


def test_activation_has_a_time_limit(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    copy_slow_bundle(models, tmp_path)
    with service_process(models, data, CPU | {"self_test_timeout_s": "2"}) as service:
        ready = service.wait_until(503)
        (broken,) = ready.json()["broken_bundles"]
        assert broken["type"] == "self-test-failed"
        url = f"{service.url}/v1/products/gear/bundles/{broken['version']}:activate"
        response = httpx.post(url, json=WHO, timeout=60)
        assert (response.status_code, response.json()["type"]) == (422, "/problems#self-test-failed")
        assert "PLUMBLINE_SELF_TEST_TIMEOUT_S" in response.json()["detail"]


def test_sigterm_ends_an_activation_in_progress(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    write_tiny_bundle(models)
    with service_process(models, data, CPU) as service, ThreadPoolExecutor(1) as pool:
        service.wait_until(200)
        slow = tiny_contents(tmp_path / "slow", "widget", model=slow_model("widget"))
        version = write_unchecked(models, "widget", slow).name
        url = f"{service.url}/v1/products/widget/bundles/{version}:activate"
        activation = pool.submit(httpx.post, url, json=WHO, timeout=60)
        wait_for(lambda: httpx.get(f"{service.url}/v1/products/widget").json()["status"] == "ready")
        time.sleep(1)
        assert not activation.done()
        assert service.terminate(timeout_s=30) == 0
        assert activation.result().json()["type"] == "/problems#shutting-down"


def wait_for(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
