"""Two real processes that share PostgreSQL and a bundle store on a real S3 server, each with a cache of its own."""

from __future__ import annotations

import io
import json
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, Text, cast, literal, or_, select, update

from plumbline_client import Client
from service.bundle.archive import write_archive
from service.bundle.bundle import Bundle
from service.store.artefacts.options import ArtefactOptions
from service.store.bundles.objects import open_objects
from service.store.bundles.references import KEEPS
from service.store.database import make_engine
from service.store.models import Base, BundleChoiceRow, BundleRow, InspectionRow
from tests.bundles import write_tiny_bundle
from tests.command_line import run
from tests.running_service import GOOD, INSPECT
from tests.s3 import S3Server
from tests.service.process.test_serving import IMAGE
from tests.service.store.test_bundle_references import OTHER_COLUMNS
from tests.serving import ServiceProcess, service_process

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("aws_credentials")]
WHO: dict[str, Any] = {"author": "Ada", "reason": "test"}
WAIT_S = 90.0
TEXTS = {"audit_log.object", "recipes.reason", "bundle_choices.reason"}
"""Columns with sentences for people that name a bundle."""


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


def settings_of(tmp_path: Path, postgres_url: str, server: S3Server) -> dict[str, str]:
    """Return the settings of replicas, whose images are in a folder."""
    (tmp_path / "images").mkdir()
    return {
        "provider": "cpu",
        "threads": "1",
        "database_url": postgres_url,
        "artefacts_url": f"file://{tmp_path / 'images'}",
        "bundle_store": f"s3://{server.bucket()}/bundles",
        "s3_endpoint_url": server.url,
        "artefacts_read_timeout_s": "1",
        "artefacts_attempts": "1",
    }


def test_replicas_share_their_bundles(tmp_path: Path, postgres_url: str, stoppable_s3: S3Server) -> None:
    old = write_tiny_bundle(tmp_path / "made")
    new = write_tiny_bundle(tmp_path / "made", created_at=old.manifest.created_at.replace(year=2027))
    settings = settings_of(tmp_path, postgres_url, stoppable_s3)
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


def test_bundles_that_nothing_needs_are_removed_beside_a_running_service(
    tmp_path: Path, postgres_url: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_tiny_bundle(tmp_path / "made")
    unused, judged, previous, active = (
        write_tiny_bundle(tmp_path / "made", created_at=first.manifest.created_at + timedelta(days=day))
        for day in range(1, 5)
    )
    settings = settings_of(tmp_path, postgres_url, s3)
    for name, value in settings.items():
        monkeypatch.setenv(f"PLUMBLINE_{name.upper()}", value)
    monkeypatch.setenv("PLUMBLINE_MODELS", str(tmp_path / "cache-of-command"))
    monkeypatch.setenv("PLUMBLINE_DATA", str(tmp_path / "data-of-command"))
    engine = make_engine(postgres_url)
    with service_process(tmp_path / "cache", tmp_path / "data", settings) as service:
        with Client(service.url) as plumbline:
            for bundle in (first, unused, judged, previous, active):
                plumbline.upload_bundle("widget", archived(bundle), create_product=bundle is first)
            for bundle in (judged, first, previous, active):
                plumbline.activate_bundle("widget", bundle.version, **WHO)
                if bundle in (judged, active):
                    inspection = inspect(service).json()
                    assert inspection["bundle"]["version"] == bundle.version, inspection
        inspection = inspection_with(engine, judged)
        with engine.begin() as connection:  # as if all of it had happened a year ago
            past = datetime.now(UTC) - timedelta(days=365)
            connection.execute(update(BundleRow).values(stored_at=past, created_at=past))
            connection.execute(update(BundleChoiceRow).values(created_at=past))
        listed = run("bundle", "prune", "--json")
        assert listed.exit_code == 0, listed.output
        # `first` is returned to by the roll-back after the next one.
        assert [one["digest"] for one in json.loads(listed.stdout)["bundles"]] == [unused.digest]
        places = columns_with(engine, judged.digest, judged.version)
        assert places - OTHER_COLUMNS - TEXTS <= KEEPS.keys()
        assert {"inspections.bundle_digest", "bundle_choices.bundle_digest"} <= places
        removed = run("bundle", "prune", "--remove", "--yes", "--json")
        assert removed.exit_code == 0, removed.output
        objects = open_objects(ArtefactOptions(settings["bundle_store"], s3.url))
        assert objects.digests() == {one.digest for one in (first, judged, previous, active)}
        objects.close()
        shutil.rmtree(tmp_path / "cache" / "widget" / judged.version)
        replayed = httpx.post(f"{service.url}/v1/inspections/{inspection}:replay", timeout=30)
        assert replayed.json()["outcome"] == "same", replayed.text
        refused = httpx.post(f"{service.url}/v1/products/widget/bundles/{unused.version}:activate", json=WHO)
        assert (refused.status_code, refused.json()["type"].rpartition("#")[2]) == (410, "bundle-removed"), refused.text
        with Client(service.url) as plumbline:
            for bundle in (previous, first):
                assert plumbline.roll_back_bundle("widget", **WHO).version == bundle.version
            plumbline.upload_bundle("widget", archived(unused))
            plumbline.activate_bundle("widget", unused.version, **WHO)
        assert judges_with(service, unused)
    engine.dispose()


def inspection_with(engine: Engine, bundle: Bundle) -> str:
    """Return the id of the inspection that a bundle judged."""
    with engine.connect() as connection:
        query = select(InspectionRow.id).where(InspectionRow.bundle_digest == bundle.digest)
        return connection.execute(query).scalar_one()


def columns_with(engine: Engine, *values: str) -> set[str]:
    """Return the columns of the database that contain one of these texts, in any form."""
    found = set()
    with engine.connect() as connection:
        for table in Base.metadata.tables.values():
            for column in table.columns:
                contains = or_(*(cast(column, Text).contains(value) for value in values))
                if connection.scalar(select(literal(1)).select_from(table).where(contains).limit(1)):
                    found.add(f"{table.name}.{column.name}")
    return found
