"""The service as a real process with images and maps in a bucket of a real S3 server."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.command_line import run
from tests.running_service import GOOD, INSPECT
from tests.s3 import S3Server
from tests.service.process.test_serving import IMAGE, Clients, assert_stored
from tests.serving import service_process

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("aws_credentials")]

FOREIGN = ("botocore", "aiohttp", "s3fs", "Errno", "Could not connect", "An error occurred", "127.0.0.1")


def test_service_recovers_from_an_outage_and_loses_nothing(
    tiny_models: Path, tmp_path: Path, stoppable_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = stoppable_s3.bucket()
    settings = {
        "provider": "cpu",
        "artefacts_url": f"s3://{bucket}/line",
        "s3_endpoint_url": stoppable_s3.url,
        "artefacts_read_timeout_s": "1",
        "artefacts_attempts": "1",
    }
    with service_process(tiny_models, tmp_path / "data", settings) as service:
        service.wait_until(200)
        clients = Clients(service.url)
        clients.wait_for(10)
        for stop, go_on in (
            (stoppable_s3.refuse, stoppable_s3.accept),
            (stoppable_s3.freeze, stoppable_s3.thaw),
        ):
            stop()
            assert "object store" in service.wait_until(503).text
            refused = httpx.post(service.url + INSPECT, content=GOOD, headers=IMAGE, timeout=30)
            assert refused.status_code == 503
            time.sleep(1)
            go_on()
            service.wait_until(200)
            seen = len(clients.responses)
            clients.wait_for(seen + 10)
        clients.stop()
        assert not clients.broken
        assert {response.status_code for response in clients.responses} == {201, 503}
        for response in clients.responses:
            if response.status_code == 503:
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["type"].endswith("#store-unavailable"), response.text
                assert not any(word in response.text for word in FOREIGN), response.text
        returned = [response for response in clients.responses if response.status_code == 201]
        stored = {key.rpartition("/")[2] for key in stoppable_s3.keys(bucket)}
        for response in returned:
            assert {f"{response.json()['id']}{suffix}" for suffix in (".png", ".npy")} <= stored
        assert_stored(service, returned[-10:])
        verdict = returned[0].json()
        replayed = httpx.post(f"{service.url}/v1/inspections/{verdict['id']}:replay", timeout=30).json()
        assert replayed["outcome"] == "same", replayed
        heatmap = httpx.get(service.url + verdict["links"]["heatmap"], timeout=30)
        assert heatmap.headers["content-type"].startswith("image/")

        # The files of refused inspections are deleted once the server responds again. A frozen server executes some
        # requests that the service gave up, so a few files without a record can be left.
        kept = {response.json()["id"] for response in returned}
        left = {key.rpartition("/")[2].partition(".")[0] for key in stoppable_s3.keys(bucket)} - kept
        assert len(left) <= 16, left
    assert not (tmp_path / "data" / "inspections").exists(), "nothing is stored in the data folder"

    for name, value in settings.items():
        monkeypatch.setenv(f"PLUMBLINE_{name}".upper(), value)
    folders = ("--models", tiny_models, "--data", tmp_path / "data")
    result = run("replay", verdict["id"], *folders)
    assert result.exit_code == 0, result.output
    assert "same" in result.output
    result = run("doctor", *folders, "--port", "0")
    assert result.exit_code == 0, result.output
    assert "a small file was written and deleted" in result.output
    stoppable_s3.refuse()
    result = run("doctor", *folders, "--port", "0")
    assert result.exit_code == 1
    assert "cannot be written to the object store (no server listens there" in result.output
