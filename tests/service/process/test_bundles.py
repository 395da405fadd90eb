"""Models in operation against the process that runs on a line: uploaded, exchanged under load, watched, replayed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from benchmarks.swap_under_load import memory_growth, mixtures, replay_all, swap_under_load, write_tiny_pair
from plumbline_client import Client
from service.bundle.archive import write_archive
from tests.bundles import write_tiny_bundle
from tests.running_service import BAD, GOOD
from tests.serving import ROOT, service_process

CPU = {"provider": "cpu"}
WHO = {"author": "Ada", "reason": "trial"}


def test_uploaded_and_activated_bundle_survives_a_kill(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    archive = io.BytesIO()
    bundle = write_tiny_bundle(tmp_path / "elsewhere")
    write_archive(bundle, archive)
    with service_process(models, data, CPU) as service:
        service.wait_until(503)
        with Client(service.url) as line:
            assert line.upload_bundle("widget", archive.getvalue()).state == "available"
            assert line.activate_bundle("widget", bundle.version, **WHO).version == bundle.version
            service.wait_until(200)
            assert line.inspect("widget", BAD).decision == "fail"
        service.kill()
    newer = write_tiny_bundle(models, created_at=bundle.manifest.created_at.replace(year=2027))
    with service_process(models, data, CPU) as service:
        service.wait_until(200)
        with Client(service.url) as line:
            assert line.inspect("widget", BAD).bundle.version == bundle.version, "what was chosen, not the newest"
            line.activate_bundle("widget", newer.version, **WHO)
            assert line.roll_back_bundle("widget", **WHO).version == bundle.version
    assert [path.name for path in models.iterdir()] == ["widget"], "nothing of the upload lies about"


def test_exchanged_under_load_no_image_is_lost_and_every_verdict_replays(tmp_path: Path) -> None:
    # The smaller brother of benchmarks/swap_under_load.py, which makes a hundred changes with eight clients.
    models, data = tmp_path / "models", tmp_path / "data"
    serving, other = write_tiny_pair(models)
    with service_process(models, data, CPU) as service:
        service.wait_until(200)
        run = swap_under_load(service, "widget", other.version, [GOOD, BAD], clients=4, swaps=10)
        history = httpx.get(f"{service.url}/v1/products/widget/recipe/revisions").json()["items"]
        assert service.terminate() == 0
    assert run.failures == []
    assert len(run.swap_s) == 10
    assert {answer["bundle"]["digest"] for answer in run.verdicts} == {serving.digest, other.digest}
    assert mixtures(run, history) == 0
    outcomes, complaints = replay_all(models, data)
    assert outcomes.keys() == {"same"}, complaints
    assert outcomes["same"] == len(run.verdicts)
    assert memory_growth(run) < 0.2


def test_shadow_watches_and_the_command_line_replays(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    serving, other = write_tiny_pair(models)
    with service_process(models, data, CPU) as service, Client(service.url) as line:
        service.wait_until(200)
        line.shadow_bundle("widget", other.version, **WHO)
        verdicts = [line.inspect("widget", image) for image in (GOOD, BAD) * 5]
        assert {verdict.bundle.version for verdict in verdicts} == {serving.version}
        deadline = time.monotonic() + 60
        while (comparison := line.compare_bundles("widget")).pairs < len(verdicts):
            assert time.monotonic() < deadline, comparison
            time.sleep(0.05)
        assert comparison.agreement["fail"]["fail"] == 5
        assert line.replay(verdicts[0].id).outcome == "same"
        environment = os.environ | {
            "PLUMBLINE_MODELS": str(models),
            "PLUMBLINE_DATA": str(data),
            "PLUMBLINE_PROVIDER": "cpu",
        }
        command = [sys.executable, "-m", "service.cli.main", "replay", *(verdict.id for verdict in verdicts)]
        replayed = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert replayed.returncode == 0, replayed.stderr
        assert "10 same" in replayed.stderr
