"""Two real processes that share PostgreSQL and a bundle store on a real S3 server, each with a cache of its own."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from plumbline_client import Client
from service.bundle.archive import write_archive
from service.bundle.bundle import Bundle
from tests.bundles import write_tiny_bundle
from tests.running_service import GOOD, INSPECT
from tests.s3 import S3Server
from tests.service.process.test_serving import IMAGE
from tests.serving import ServiceProcess, service_process

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("aws_credentials")]
WHO: dict[str, Any] = {"author": "Ada", "reason": "test"}
WAIT_S = 90.0


def archived(bundle: Bundle) -> bytes:
    archive = io.BytesIO()
    write_archive(bundle, archive)
    return archive.getvalue()


def inspect(service: ServiceProcess) -> httpx.Response:
    return httpx.post(service.url + INSPECT, content=GOOD, headers=IMAGE, timeout=30)


def wait_until_judged(service: ServiceProcess, bundle: Bundle) -> None:
    deadline = time.monotonic() + WAIT_S
    while not judges_with(service, bundle):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def judges_with(service: ServiceProcess, bundle: Bundle) -> bool:
    response = inspect(service)
    assert response.status_code in {201, 404, 503}, response.text
    return response.status_code == 201 and response.json()["bundle"]["version"] == bundle.version


def test_replicas_share_their_bundles(tmp_path: Path, postgres_url: str, stoppable_s3: S3Server) -> None:
    old = write_tiny_bundle(tmp_path / "made")
    new = write_tiny_bundle(tmp_path / "made", created_at=old.manifest.created_at.replace(year=2027))
    (tmp_path / "images").mkdir()
    settings = {
        "provider": "cpu",
        "threads": "1",
        "database_url": postgres_url,
        "artefacts_url": f"file://{tmp_path / 'images'}",
        "bundle_store": f"s3://{stoppable_s3.bucket()}/bundles",
        "s3_endpoint_url": stoppable_s3.url,
        "artefacts_read_timeout_s": "1",
        "artefacts_attempts": "1",
    }
    (a, data_a), (b, data_b) = ((tmp_path / f"cache-{name}", tmp_path / f"data-{name}") for name in "ab")
    with service_process(b, data_b, settings) as second:
        with service_process(a, data_a, settings) as first:
            with Client(first.url) as plumbline:
                assert plumbline.upload_bundle("widget", archived(old), create_product=True).version == old.version
                plumbline.activate_bundle("widget", old.version, **WHO)
            assert judges_with(first, old)
            wait_until_judged(second, old)
            with Client(second.url) as plumbline:
                plumbline.upload_bundle("widget", archived(new))
                stoppable_s3.refuse()
                plumbline.activate_bundle("widget", new.version, **WHO)
            assert judges_with(second, new), "it is on the disk of this replica"
            refused = inspect(first)
            assert refused.status_code == 503, "never judged by the bundle of before"
            assert refused.json()["type"].endswith("#product-not-ready")
            assert int(refused.headers["retry-after"]) >= 1
            stoppable_s3.accept()
            wait_until_judged(first, new)
            first.kill()
        shutil.rmtree(a)
        with service_process(a, data_a, settings) as first:
            first.wait_until(200)
            assert judges_with(first, new)
            listed = httpx.get(f"{first.url}/v1/products/widget/bundles").json()
            assert [item["version"] for item in listed["items"]] == [new.version, old.version]
            inspection = inspect(first).json()["id"]
            with Client(first.url) as plumbline:
                plumbline.roll_back_bundle("widget", **WHO)
            assert judges_with(first, old)
            shutil.rmtree(a / "widget" / new.version)
            replayed = httpx.post(f"{first.url}/v1/inspections/{inspection}:replay", timeout=30)
            assert replayed.json()["outcome"] == "same", replayed.text
            text = httpx.get(f"{first.url}/metrics").text
            assert 'inspection_bundle_downloads_total{outcome="done"} 3.0' in text
            assert 'inspection_bundle_downloads_total{outcome="failed"} 0.0' in text
