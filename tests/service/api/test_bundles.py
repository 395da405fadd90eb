"""Bundles over HTTP: upload, activation, roll-back and unloading without an effect on images in flight."""

from __future__ import annotations

import io
import json
import threading
import weakref
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest

from service.bundle.archive import read_archive, write_archive
from service.bundle.bundle import Bundle
from service.bundle.errors import BundleSchema
from service.bundle.manifest import MANIFEST, MODEL
from service.bundle.writer import write_bundle
from service.errors import ShuttingDown
from service.schemas.bundle import Activation, BundleList, BundleRecord, ChoiceHistory
from tests.bundles import SCORES, tiny_card, tiny_draft, tiny_golden, tiny_model, write_tiny_bundle
from tests.running_service import BAD, GOOD, HttpService, Serve
from tests.service.api.test_health import value
from tests.service.bundle.test_archive import zipped

PRODUCT = "/v1/products/widget"
WHO = {"author": "Ada", "reason": "it misses fewer scratches"}
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)


def make_bundle(models: Path, day: int = 0, **changes: Any) -> Bundle:
    """Write a distinct bundle; a later day makes it newer and its card more lenient."""
    scores = [score * (1 + day) for score in SCORES]
    return write_tiny_bundle(models, created_at=FIRST_DAY + timedelta(days=day), scores=scores, **changes)


def archived(bundle: Bundle) -> bytes:
    buffer = io.BytesIO()
    write_archive(bundle, buffer)
    return buffer.getvalue()


def upload(
    service: HttpService, bundle: Bundle | bytes, product: str = "widget", *, create_product: bool = False
) -> httpx.Response:
    content = archived(bundle) if isinstance(bundle, Bundle) else bundle
    headers = {"content-type": "application/zip"}
    params = {"create_product": "true"} if create_product else {}
    return service.client.post(f"/v1/products/{product}/bundles", content=content, headers=headers, params=params)


def activate(service: HttpService, bundle: Bundle) -> httpx.Response:
    return service.client.post(f"{PRODUCT}/bundles/{bundle.version}:activate", json=WHO)


def roll_back(service: HttpService) -> httpx.Response:
    return service.client.post(f"{PRODUCT}/bundles:rollback", json=WHO)


def listed(service: HttpService) -> dict[str, str]:
    response = BundleList.model_validate_json(service.client.get(f"{PRODUCT}/bundles").content)
    return {item.version: item.state for item in response.items}


def serving(service: HttpService) -> str:
    return str(service.inspect().json()["bundle"]["version"])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def two(models: Path) -> tuple[Bundle, Bundle]:
    """Write two bundles of one product into the repository, the older one first."""
    return make_bundle(models), make_bundle(models, 1)


@pytest.mark.slow
def test_uploaded_bundle_is_listed_and_has_no_effect_until_it_is_activated(
    serve: Serve, models: Path, tmp_path: Path
) -> None:
    old, new = make_bundle(models), make_bundle(tmp_path / "elsewhere", 1)
    with serve(models=models) as service:
        response = upload(service, new)
        assert response.status_code == 201, response.text
        record = BundleRecord.model_validate_json(response.content)
        assert (record.version, record.state, record.loaded) == (new.version, "available", False)
        assert record.bundle is not None
        assert record.bundle.digest == new.digest
        assert service.client.get(response.headers["location"]).json() == response.json()
        assert serving(service) == old.version
        assert upload(service, new).status_code == 200, "the same bundle again changes nothing"
        assert listed(service) == {new.version: "available", old.version: "active"}
    with serve(models=models) as service:
        assert serving(service) == old.version, "a restart does not activate it"


@pytest.mark.slow
def test_activated_bundle_serves_with_its_recipe_and_after_a_restart(
    serve: Serve, models: Path, two: tuple[Bundle, Bundle]
) -> None:
    old, new = two
    with serve(models=models) as service:
        assert serving(service) == new.version, "the newest one serves if none was chosen"
        response = activate(service, old)
        assert response.status_code == 200, response.text
        activation = Activation.model_validate_json(response.content)
        assert (activation.version, activation.author, activation.reason) == (old.version, *WHO.values())
        verdict = service.inspect(BAD).json()
        assert verdict["bundle"]["digest"] == old.digest
        assert verdict["recipe_revision"] == activation.recipe_revision
        assert verdict["thresholds"]["fail"] == old.card.scores[98]
        recipe = service.client.get(f"{PRODUCT}/recipe").json()
        assert (recipe["bundle_digest"], recipe["revision"]) == (old.digest, activation.recipe_revision)
    with serve(models=models) as service:
        assert serving(service) == old.version, "although another bundle is newer"


@pytest.mark.slow
def test_roll_back_returns_bundle_by_bundle_with_their_recipes(serve: Serve, models: Path) -> None:
    bundles = [make_bundle(models, day) for day in range(3)]
    with serve(models=models) as service:
        assert serving(service) == bundles[2].version
        by_hand = {"fail_threshold": 5.0, "review_threshold": 4.0, "author": "Ada", "reason": "trial"}
        service.client.put(f"{PRODUCT}/recipe", json=by_hand)
        activate(service, bundles[0])
        activate(service, bundles[1])
        assert roll_back(service).json()["version"] == bundles[0].version
        assert serving(service) == bundles[0].version
        response = roll_back(service)
        assert response.json()["version"] == bundles[2].version, "a second roll-back goes further back"
        assert service.inspect(BAD).json()["thresholds"]["fail"] == 5.0, "with its earlier recipe"
        refused = roll_back(service)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems#nothing-to-roll-back-to")
        history = ChoiceHistory.model_validate_json(service.client.get(f"{PRODUCT}/bundles:history").content).items
        versions = [bundles[number].version for number in (2, 0, 1, 0, 2)]
        assert [choice.version for choice in history] == versions
        assert [choice.author for choice in history] == ["Ada"] * 4 + ["plumbline"]


@pytest.mark.slow
def test_bundle_that_fails_its_self_test_does_not_replace_the_active_one(serve: Serve, models: Path) -> None:
    good, wrong = make_bundle(models, 1), make_bundle(models, offset=0.5)
    with serve(models=models) as service:
        response = activate(service, wrong)
        assert (response.status_code, response.json()["type"]) == (422, "/problems#parity-failure")
        assert serving(service) == good.version
        record = BundleRecord.model_validate_json(service.client.get(f"{PRODUCT}/bundles/{wrong.version}").content)
        assert record.state == "broken"
        assert record.problem is not None
        assert record.problem.type == "parity-failure"
        assert service.client.get("/health/ready").json()["status"] == "ready", "the chosen bundle serves"
        assert service.client.get(f"{PRODUCT}/bundles:history").json()["items"] == [], "nothing is stored"
        labels = {"product": "widget", "change": "activate"}
        assert value(service, "inspection_bundle_changes_total", outcome="refused", **labels) == 1


@pytest.mark.slow
def test_bundle_that_the_runtime_cannot_load_is_refused(serve: Serve, models: Path) -> None:
    good, draft = make_bundle(models, 1), tiny_draft()
    model = tiny_model(draft)
    model.graph.node[-1].op_type = "NobodyKnowsThisOperator"
    with pytest.raises(BundleSchema, match="NobodyKnowsThisOperator"):
        write_bundle(models, draft=draft, model=model.SerializeToString(), card=tiny_card(), golden=tiny_golden())
    model = tiny_model(draft)
    model.graph.node[-1].input.append("half")  # an Add of three values
    strange = write_bundle(models, draft=draft, model=model.SerializeToString(), card=tiny_card(), golden=tiny_golden())
    with serve(models=models) as service:
        response = activate(service, strange)
        assert (response.status_code, response.json()["type"]) == (422, "/problems#bundle-invalid")
        assert "Add" in response.json()["detail"]
        assert serving(service) == good.version


def test_missing_gpu_that_was_requested_is_reported(serve: Serve, tiny_bundle: Bundle) -> None:
    with serve(provider="cuda") as service:
        response = activate(service, tiny_bundle)
        if response.status_code == 200:
            pytest.skip("CUDA works here")
        assert (response.status_code, response.json()["type"]) == (503, "/problems#provider-unavailable")


@pytest.mark.slow
def test_upload_repairs_a_damaged_bundle(serve: Serve, models: Path, tmp_path: Path) -> None:
    good, damaged = make_bundle(models, 1), make_bundle(models)
    intact = archived(damaged)
    (damaged.path / MODEL).write_bytes(b"bit rot")
    with serve(models=models) as service:
        assert activate(service, damaged).json()["type"] == "/problems#bundle-integrity"
        assert listed(service)[damaged.version] == "broken"
        assert upload(service, intact).status_code == 201
        assert listed(service) == {good.version: "active", damaged.version: "available"}
        assert activate(service, damaged).status_code == 200


@pytest.mark.slow
def test_first_bundle_creates_a_product(serve: Serve, tmp_path: Path) -> None:
    nut = write_tiny_bundle(tmp_path / "elsewhere", "nut")
    with serve(models=tmp_path / "models") as service:
        assert service.client.get("/health/ready").status_code == 503
        unknown = upload(service, nut, "nut")
        assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems#unknown-product")
        assert "create_product=true" in unknown.json()["detail"]
        assert "in the model repository $PLUMBLINE_MODELS" in unknown.json()["detail"], "names the folder"
        assert not (tmp_path / "models" / "nut").exists()
        assert upload(service, nut, "nut", create_product=True).status_code == 201
        assert service.client.get("/v1/products/nut").json()["status"] == "inactive"
        headers = {"content-type": "image/png"}
        refused = service.client.post("/v1/products/nut/inspections", content=GOOD, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems#product-not-ready")
        assert "activated" in refused.json()["detail"]
        assert service.client.post(f"/v1/products/nut/bundles/{nut.version}:activate", json=WHO).status_code == 200
        assert service.client.get("/v1/products/nut").json()["status"] == "ready"
        assert service.client.get("/health/ready").status_code == 200
        response = service.client.post("/v1/products/nut/inspections", content=GOOD, headers=headers)
        assert response.json()["decision"] == "pass"


@pytest.mark.slow
def test_broken_chosen_bundle_is_reported_and_the_previous_one_serves(
    serve: Serve, models: Path, two: tuple[Bundle, Bundle]
) -> None:
    old, new = two
    make_bundle(models, 2)  # the newest one, never chosen
    with serve(models=models) as service:
        activate(service, old)
        activate(service, new)
    (new.path / MODEL).write_bytes(b"bit rot")
    with serve(models=models) as service:
        assert serving(service) == old.version, "not the newest, which was never activated"
        ready = service.client.get("/health/ready").json()
        assert (ready["status"], ready["broken_bundles"][0]["version"]) == ("degraded", new.version)
        assert activate(service, old).status_code == 200
        assert service.client.get("/health/ready").json()["status"] == "ready", "because it was activated explicitly"


def test_products_and_metrics_are_correct_after_a_swap(serve: Serve, models: Path, two: tuple[Bundle, Bundle]) -> None:
    old, new = two
    with serve(models=models) as service:
        activate(service, old)
        product = service.client.get(PRODUCT).json()
        assert product["bundle"]["version"] == old.version
        assert product["recipe"]["bundle_digest"] == old.digest
        info = [line for line in service.client.get("/metrics").text.splitlines() if "inspection_model_info{" in line]
        assert len(info) == 1
        assert old.digest in info[0]
        labels = {"product": "widget", "change": "activate", "outcome": "done"}
        assert value(service, "inspection_bundle_changes_total", **labels) == 1
        assert value(service, "inspection_threshold", product="widget", kind="fail") == old.card.scores[98]
        assert new.version not in info[0]


def test_image_in_flight_is_completed_by_the_bundle_that_started_it(
    serve: Serve, models: Path, two: tuple[Bundle, Bundle]
) -> None:
    old, new = two
    with serve(models=models) as service:
        registry = service.registry
        with registry.lease("widget") as active:
            # The response is sent after the last image of the old bundle, which is this one.
            swapping = threading.Thread(target=activate, args=(service, old))
            swapping.start()
            while registry.get("widget").bundle.version != old.version:
                pass
            assert serving(service) == old.version, "the new bundle serves already"
            inspector = active.inspector
            image = inspector.read(BAD)
            result = inspector.infer(image)
            judged = inspector.finish(image, result, active.recipe.recipe.criteria)
            assert judged.decision == "fail"
            assert active.bundle.version == new.version
            assert swapping.is_alive(), "it waits for the last image"
        swapping.join(10)
        assert not swapping.is_alive()
        with pytest.raises(ShuttingDown):
            inspector.infer(image)


def test_unloaded_bundle_releases_its_session(serve: Serve, models: Path, two: tuple[Bundle, Bundle]) -> None:
    with serve(models=models) as service:
        session = weakref.ref(service.registry.get("widget").inspector.session)
        service.inspect()
        assert activate(service, two[0]).status_code == 200
        assert session() is None, "there is no reference left, not even in a cycle"


def test_one_change_of_a_product_at_a_time(serve: Serve, models: Path, two: tuple[Bundle, Bundle]) -> None:
    with serve(models=models) as service, service.registry.changing("widget"):
        for response in (activate(service, two[0]), roll_back(service), upload(service, two[0])):
            assert (response.status_code, response.json()["type"]) == (409, "/problems#bundle-change-under-way")
        assert serving(service) == two[1].version


def test_repository_that_cannot_be_written_still_serves_and_activates(
    serve: Serve, models: Path, two: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    another = make_bundle(tmp_path / "elsewhere", 5)
    with serve(models=models) as service:
        # Moved away instead of read-only, because root may write everywhere.
        aside = models.rename(tmp_path / "aside")
        models.write_text("a file where the repository should be")
        response = upload(service, another)
        assert (response.status_code, response.json()["type"]) == (507, "/problems#repository-not-writable")
        models.unlink()
        aside.rename(models)
        assert activate(service, two[0]).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "status", "slug"),
    [
        (b"", 422, "invalid-request"),
        (b"PK but no zip", 422, "bundle-archive-invalid"),
        (b"x" * 200_001, 413, "bundle-too-large"),
    ],
)
def test_refused_upload_leaves_no_files(
    serve: Serve, models: Path, two: tuple[Bundle, Bundle], content: bytes, status: int, slug: str
) -> None:
    with serve(models=models, max_bundle_bytes=200_000, max_body_bytes=100_000) as service:
        before = sorted(models.rglob("*"))
        response = upload(service, content)
        assert (response.status_code, response.json()["type"]) == (status, f"/problems#{slug}")
        assert sorted(models.rglob("*")) == before
        assert upload(service, b"x" * 150_000).json()["type"].endswith("bundle-archive-invalid"), "larger than an image"


def test_external_data_and_unknown_schema_versions_are_refused(service: HttpService, tiny_bundle: Bundle) -> None:
    contents = read_archive(io.BytesIO(archived(tiny_bundle)), 10**6)
    model = onnx.load_model_from_string(contents[MODEL])
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    contents[MODEL] = model.SerializeToString()
    manifest = json.loads(contents[MANIFEST])
    manifest["files"][MODEL] = {"sha256": sha256(contents[MODEL]).hexdigest(), "bytes": len(contents[MODEL])}
    for slug, change in (("bundle-external-data", {}), ("bundle-schema", {"schema_version": 99})):
        response = upload(service, zipped(*(contents | {MANIFEST: json.dumps(manifest | change).encode()}).items()))
        assert (response.status_code, response.json()["type"]) == (422, f"/problems#{slug}")


def test_invalid_product_name_is_refused(service: HttpService, tiny_bundle: Bundle) -> None:
    for name in ("Widget", "..%2Fwidget", "x" * 65, ".staging"):
        assert upload(service, tiny_bundle, name).status_code in {404, 422}, name
    response = upload(service, tiny_bundle, "nut", create_product=True)
    assert response.json()["type"] == "/problems#bundle-of-other-product"


def test_change_needs_an_author_and_a_reason(service: HttpService, tiny_bundle: Bundle) -> None:
    address = f"{PRODUCT}/bundles/{tiny_bundle.version}:activate"
    for decision in ({}, {"author": "a"}, {"author": "plumbline", "reason": "x"}, {"author": "a", "reason": " "}):
        assert service.client.post(address, json=decision).status_code == 422
    unknown = service.client.post(f"{PRODUCT}/bundles/000000000000:activate", json=WHO)
    assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems#unknown-bundle")
    assert unknown.json()["known"] == [tiny_bundle.version]
