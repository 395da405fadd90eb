"""The API with a bundle store: uploads, activations and images while it can be reached, and while it cannot."""

from __future__ import annotations

import io
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.bundle.archive import write_archive
from service.bundle.bundle import Bundle
from service.bundle.manifest import MODEL
from service.store.audit import Actor
from service.store.bundles.pruning import find_unneeded, unlist
from tests.bundles import write_tiny_bundle
from tests.problems import assert_problem
from tests.running_service import GOOD, RunningService, run_service

WHO = {"author": "Ada", "reason": "test"}
ZIP = {"content-type": "application/zip"}


def upload(service: RunningService, bundle: Bundle) -> Any:
    archive = io.BytesIO()
    write_archive(bundle, archive)
    url = f"/v1/products/{bundle.manifest.product}/bundles?create_product=true"
    return service.client.post(url, content=archive.getvalue(), headers=ZIP)


def activate(service: RunningService, bundle: Bundle) -> Any:
    return service.client.post(f"/v1/products/{bundle.manifest.product}/bundles/{bundle.version}:activate", json=WHO)


def inspect(service: RunningService, bundle: Bundle) -> Any:
    url = f"/v1/products/{bundle.manifest.product}/inspections"
    return service.client.post(url, content=GOOD, headers={"content-type": "image/png"})


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "store").mkdir()
    # The first product is loaded at the start; memory for one of the two only.
    return {"bundle_store": f"file://{tmp_path / 'store'}", "bundle_memory_bytes": 6 * 2**20, "threads": 1}


def test_products_of_the_store_are_served_while_it_can_be_reached(tmp_path: Path, settings: dict[str, Any]) -> None:
    bolt, nut, rivet = (write_tiny_bundle(tmp_path / "made", name) for name in ("bolt", "nut", "rivet"))
    newer = write_tiny_bundle(tmp_path / "made", "nut", created_at=nut.manifest.created_at.replace(year=2027))
    models, data, store = tmp_path / "cache", tmp_path / "data", tmp_path / "store"
    with run_service(models, data, **settings) as service:
        for bundle in (bolt, nut):
            assert upload(service, bundle).status_code == 201
            assert upload(service, bundle).status_code == 200
            assert activate(service, bundle).status_code == 200
        assert upload(service, newer).status_code == 201
    shutil.rmtree(models)
    with run_service(models, data, **settings) as service:
        listed = service.client.get("/v1/products").json()["items"]
        assert {item["product"] for item in listed} == {"bolt", "nut"}
        is_bolt_here = (models / "bolt" / bolt.version / MODEL).exists()
        here, elsewhere = (bolt, nut) if is_bolt_here else (nut, bolt)
        hidden = store.rename(store.with_name("hidden"))
        for refused in (upload(service, rivet), activate(service, newer)):
            assert_problem(refused, 503, "bundle-store-unavailable")
            assert "folder $PLUMBLINE_BUNDLE_STORE does not exist" in refused.json()["detail"]
            assert int(refused.headers["retry-after"]) >= 1
            assert str(tmp_path) not in refused.text, "the folders of the server are not shown"
        waiting = inspect(service, elsewhere)
        assert_problem(waiting, 503, "product-not-ready")
        assert int(waiting.headers["retry-after"]) >= 1
        assert inspect(service, here).status_code == 201
        hidden.rename(store)
        assert upload(service, rivet).status_code == 201
        (item,) = service.client.get("/v1/products/rivet/bundles").json()["items"]
        assert item["state"] == "available"


def test_removed_bundle_is_not_activated_and_the_active_one_serves_on(tmp_path: Path, settings: dict[str, Any]) -> None:
    old = write_tiny_bundle(tmp_path / "made", "nut")
    new = write_tiny_bundle(tmp_path / "made", "nut", created_at=old.manifest.created_at.replace(year=2027))
    with run_service(tmp_path / "cache", tmp_path / "data", **settings) as service:
        for bundle in (old, new):
            assert upload(service, bundle).status_code == 201
        assert activate(service, new).status_code == 200
        engine = service.store.engine
        found = find_unneeded(engine, datetime.now(UTC) + timedelta(days=1))
        assert [one.digest for one in found.bundles] == [old.digest]
        assert unlist(engine, found.bundles[0], found, Actor("local", "local", "Ada")) == "removed"

        refused = activate(service, old)

        assert_problem(refused, 410, "bundle-removed")
        assert refused.json()["version"] == old.version
        assert "upload it from a copy" in refused.json()["detail"]
        judged = inspect(service, new)
        assert (judged.status_code, judged.json()["bundle"]["version"]) == (201, new.version)
