"""The first upload to a product stores a choice: together with the bundle, once, and without refusing other uploads."""

from __future__ import annotations

import io
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.bundle.archive import write_archive
from service.bundle.bundle import Bundle
from service.bundle.errors import RepositoryNotWritable
from service.bundle.manifest import MODEL
from service.store.audit import AuditFilter, read_audit
from service.store.errors import StoreUnavailable
from service.store.records import BundleChoice, ChoiceDraft
from tests.bundles import write_tiny_bundle
from tests.service.deployment.conftest import ADA, SIGNATURE, TIMEOUT_S, Deployment, HangingWrite


def archived(bundle: Bundle) -> io.BytesIO:
    archive = io.BytesIO()
    write_archive(bundle, archive)
    return archive


@pytest.fixture
def bundles(tmp_path: Path) -> dict[str, list[Bundle]]:
    """Two bundles by product that are not in the model repository: of a new product, and of one that serves."""
    start = datetime(2027, 1, 1, tzinfo=UTC)
    return {
        product: [
            write_tiny_bundle(tmp_path / "elsewhere", product, created_at=start + timedelta(days=day))
            for day in range(2)
        ]
        for product in ("washer", "bolt")
    }


@pytest.fixture
def rename_fails(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make the rename of a staged bundle fail, as on a read-only or full disk."""
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.parent.name.startswith(".staging-") and path.name != "damaged":
            raise OSError(30, "Read-only file system")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    return monkeypatch


@pytest.mark.parametrize("product", ["washer", "bolt"])
def test_simultaneous_first_uploads_both_succeed(
    deployment: Deployment,
    bundles: dict[str, list[Bundle]],
    hanging: HangingWrite,
    monkeypatch: pytest.MonkeyPatch,
    product: str,
) -> None:
    first, second = bundles[product]
    rollout = deployment.rollout
    append = rollout.choices.append

    def append_slowly(draft: ChoiceDraft) -> BundleChoice:
        hanging.wait()
        return append(draft)

    monkeypatch.setattr(rollout.choices, "append", append_slowly)
    hanging.run(lambda: rollout.upload(product, archived(first), actor=ADA, create_product=True))
    results: list[object] = []

    def upload() -> None:
        try:
            rollout.check_upload(product, create_product=True)
            results.append(rollout.upload(product, archived(second), actor=ADA, create_product=True)[1])
        except Exception as error:  # noqa: BLE001 - checked below
            results.append(error)

    thread = threading.Thread(target=upload, daemon=True)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive(), "it waits for the first one"
    hanging.release()
    thread.join(TIMEOUT_S)
    assert hanging.error is None
    assert results == [True]
    assert len(rollout.choices.history(product, "active")) == 1
    assert {first.version, second.version} <= {version.version for version in rollout.versions(product)}


@pytest.mark.parametrize("product", ["washer", "bolt"])
def test_upload_that_cannot_be_put_in_place_leaves_no_choice(
    deployment: Deployment, bundles: dict[str, list[Bundle]], rename_fails: pytest.MonkeyPatch, product: str
) -> None:
    rollout = deployment.rollout
    with pytest.raises(RepositoryNotWritable):
        rollout.upload(product, archived(bundles[product][0]), actor=ADA, create_product=True)
    assert list(rollout.choices.history(product, "active")) == []
    recorded = [item.action for item in read_audit(deployment.store.engine, AuditFilter(product=product))]
    assert recorded[-4:] == ["bundle:keep", "bundle:upload", "bundle:upload-failed", "bundle:withdraw"]
    rename_fails.undo()
    assert rollout.upload(product, archived(bundles[product][0]), actor=ADA, create_product=True)[1]
    assert len(rollout.choices.history(product, "active")) == 1


def test_earlier_choice_stays_if_an_upload_fails(
    deployment: Deployment, bundles: dict[str, list[Bundle]], rename_fails: pytest.MonkeyPatch
) -> None:
    deployment.activate("bolt", deployment.old["bolt"])
    before = deployment.rollout.choices.history("bolt", "active")
    with pytest.raises(RepositoryNotWritable):
        deployment.rollout.upload("bolt", archived(bundles["bolt"][0]), actor=ADA, create_product=False)
    assert deployment.rollout.choices.history("bolt", "active") == before


def test_failed_upload_is_reported_even_if_its_choice_cannot_be_removed(
    deployment: Deployment, bundles: dict[str, list[Bundle]], rename_fails: pytest.MonkeyPatch
) -> None:
    def unavailable(_choice: BundleChoice) -> None:
        raise StoreUnavailable("test")

    rename_fails.setattr(deployment.rollout.choices, "withdraw", unavailable)
    with pytest.raises(RepositoryNotWritable):
        deployment.rollout.upload("bolt", archived(bundles["bolt"][0]), actor=ADA, create_product=False)


def test_damaged_bundle_stays_if_its_replacement_cannot_be_put_in_place(
    deployment: Deployment, rename_fails: pytest.MonkeyPatch
) -> None:
    bundle = deployment.old["bolt"]
    archive = archived(bundle)
    (bundle.path / MODEL).write_bytes(b"damaged")
    with pytest.raises(RepositoryNotWritable):
        deployment.rollout.upload("bolt", archive, actor=ADA, create_product=False)
    assert (bundle.path / MODEL).read_bytes() == b"damaged"


def test_activation_during_a_failed_upload_does_not_return_to_the_withdrawn_choice(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = deployment.rollout
    load = deployment.registry.load_bundle
    publishing = rollout._publication._publishing("bolt")
    publishing.__enter__()

    def load_while_the_upload_fails(product: str, version: str) -> object:
        error = OSError(28, "No space left on device")
        assert not publishing.__exit__(OSError, error, None)
        return load(product, version)

    monkeypatch.setattr(deployment.registry, "load_bundle", load_while_the_upload_fails)
    deployment.activate("bolt", deployment.old["bolt"])
    assert rollout.roll_back("bolt", **SIGNATURE).version == deployment.new["bolt"].version
