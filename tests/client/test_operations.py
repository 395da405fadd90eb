"""Every operation on bundles and recipes, with the sync and the async client."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from plumbline_client import AsyncClient, Client, ServiceProblem
from plumbline_client.schemas.training import TrainingVersion
from service.bundle.archive import write_archive
from tests.bundles import part, write_tiny_bundle
from tests.running_service import Serve, encode

WHO = {"author": "Ada", "reason": "trial"}
Call = Callable[..., Any]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def call_of(request: pytest.FixtureRequest) -> Callable[[int], Call]:
    """Return a function that calls a method of a client for a port."""

    def make(port: int) -> Call:
        url = f"http://127.0.0.1:{port}"

        async def run(method: str, *arguments: Any, **options: Any) -> Any:
            async with AsyncClient(url) as plumbline:
                return await getattr(plumbline, method)(*arguments, **options)

        def call(method: str, *arguments: Any, **options: Any) -> Any:
            if request.param:
                return asyncio.run(run(method, *arguments, **options))
            with Client(url) as plumbline:
                return getattr(plumbline, method)(*arguments, **options)

        return call

    return make


@pytest.mark.slow
def test_bundles_are_uploaded_compared_activated_and_rolled_back(
    call_of: Callable[[int], Call], serve: Serve, tmp_path: Path
) -> None:
    first = write_tiny_bundle(tmp_path / "models", created_at=datetime(2026, 1, 1, tzinfo=UTC))
    second = write_tiny_bundle(tmp_path / "elsewhere", gain=True, created_at=datetime(2026, 2, 1, tzinfo=UTC))
    archive = io.BytesIO()
    write_archive(second, archive)
    with serve(models=tmp_path / "models") as service:
        call = call_of(service.port)
        with pytest.raises(ServiceProblem, match="unknown-product"):
            call("upload_bundle", "gadget", archive.getvalue())
        assert call("upload_bundle", "widget", archive.getvalue()).version == second.version
        assert {item.version: item.state for item in call("bundles", "widget").items} == {
            first.version: "active",
            second.version: "available",
        }
        assert call("shadow_bundle", "widget", second.version, **WHO).version == second.version
        compared = call("compare_bundles", "widget", shadow=second.version, limit=10)
        assert (compared.active, compared.shadow) == (first.version, second.version)
        assert call("stop_shadow", "widget", **WHO).author == "Ada"
        assert call("activate_bundle", "widget", second.version, **WHO).version == second.version
        assert call("roll_back_bundle", "widget", **WHO).version == first.version
        with pytest.raises(ServiceProblem, match="unknown-bundle"):
            call("activate_bundle", "widget", "000000000000", **WHO)


@pytest.mark.slow
def test_recipes_are_compared_reverted_exported_and_imported(call_of: Callable[[int], Call], serve: Serve) -> None:
    with serve() as service:
        call = call_of(service.port)
        changed = call("change_recipe", "widget", **WHO, target_false_reject_rate=0.1, expected_revision=1)
        assert changed.revision == 2
        assert [record.revision for record in call("recipe_history", "widget")] == [2, 1]
        assert call("recipe_revision", "widget", 1).revision == 1
        differences = call("compare_recipes", "widget", 1, 2).differences
        assert "target_false_reject_rate" in {item.path for item in differences}
        toml = call("export_recipe", "widget")
        assert call("revert_recipe", "widget", 1, author="Ada", expected_revision=2).revision == 3
        imported = call("import_recipe", "widget", toml, **WHO, expected_revision=3)
        assert (imported.revision, imported.author) == (4, "Ada")
        assert imported.recipe == changed.recipe
        with pytest.raises(ServiceProblem, match="recipe-conflict"):
            call("import_recipe", "widget", toml, **WHO, expected_revision=3)
        assert call("recipe", "widget").revision == 4


def test_drift_is_read_and_acknowledged(call_of: Callable[[int], Call], serve: Serve) -> None:
    with serve() as service:
        call = call_of(service.port)
        report = call("drift", "widget")
        assert (report.product, report.guarantee, report.suspension) == ("widget", "certified", None)
        with pytest.raises(ServiceProblem, match="no-open-drift-alarm"):
            call("acknowledge_drift", "widget", **WHO)


@pytest.mark.slow
def test_keys_and_accounts_are_managed(
    call_of: Callable[[int], Call], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as service:
        call = call_of(service.port)
        assert call("me").kind == "local"
        root = call("create_key", "root", ["admin"])
        monkeypatch.setenv("PLUMBLINE_API_KEY", root.key)
        assert call("me").id == root.id
        account = call("create_account", "Kim/ä", "operator", "a-long-password")
        assert (account.name, account.role, account.disabled_at) == ("Kim/ä", "operator", None)
        assert call("set_account_role", account.id, "engineer").role == "engineer"
        assert call("disable_account", account.id).disabled_at is not None
        assert call("enable_account", account.id).disabled_at is None
        assert call("set_account_password", account.id, "another-long-password").id == account.id
        assert [one.id for one in call("accounts")] == [account.id]
        with pytest.raises(ServiceProblem, match="account-exists"):
            call("create_account", "kim/Ä", "admin", "a-long-password")
        soon = datetime.now(UTC) + timedelta(days=1)
        key = call("create_key", "cam", ["inspect"], products=["widget"], stations=["A2"], expires_at=soon)
        assert (key.scopes, key.products, key.stations, key.expires_at) == (["inspect"], ["widget"], ["A2"], soon)
        assert call("revoke_key", key.id).revoked_at is not None
        assert [one.id for one in call("keys")] == [key.id, root.id]


@pytest.mark.slow
def test_a_product_is_taught_and_a_worker_does_the_job(call_of: Callable[[int], Call], serve: Serve) -> None:
    with serve() as service:
        call = call_of(service.port)
        images = [(f"{number}.png", encode(part(brightness=130 + number))) for number in range(8)]
        with pytest.raises(ServiceProblem, match="unknown-product"):
            call("teach_product", "gadget", images)
        assert call("teach_product", "gadget", images, create_product=True).create_product
        with pytest.raises(ServiceProblem, match="0 different good images"):
            call("teach_from_inspections", "widget", since=datetime(2026, 1, 1, tzinfo=UTC))
        job = call("teach_product", "widget", images, quick_only=True, activate=True, author="Ada")
        assert (job.author, job.quick_only, job.activate) == ("Ada", True, True)
        assert call("cancel_training", "gadget", call("training_jobs", "gadget").items[0].id).state == "cancelled"
        claim = call("claim_training", "pc-7")
        assert (claim.job.id, claim.claim) == (job.id, 1)
        listed = call("training_images", "widget", job.id).items
        assert [(item.name, item.number) for item in listed][-1] == ("7.png", 8)
        assert call("training_image", "widget", job.id, 8) == images[7][1]
        version = TrainingVersion(variant="quick", version="0123456789ab", role=None)
        report = {"done": 1, "total": 2, "seconds": 0.5, "version": version}
        assert call("report_training", "widget", job.id, 1, "train", **report).versions == [version]
        assert call("finish_training", "widget", job.id, 1, "failed", "no space").error == "no space"
        assert call("training_job", "widget", job.id).state == "failed"
        assert call("claim_training", "pc-7").job is None
