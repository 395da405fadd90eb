"""Health probes and metrics."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from service.bundle.archive import write_archive
from service.bundle.bundle import Bundle
from service.schemas.product import Readiness
from tests.bundles import write_tiny_bundle
from tests.running_service import BAD, GOOD, HttpService, RunningService, Serve

NEWER = datetime(2026, 2, 1, tzinfo=UTC)


def readiness(service: HttpService) -> tuple[int, Readiness]:
    response = service.client.get("/health/ready")
    return response.status_code, Readiness.model_validate_json(response.content)


def samples(service: HttpService) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = service.client.get("/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(service: HttpService, name: str, **labels: str) -> float | None:
    return samples(service).get((name, frozenset(labels.items())))


def test_service_with_its_products_loaded_is_ready(service: RunningService) -> None:
    status, body = readiness(service)
    assert (status, body.status, body.products, body.broken_bundles) == (200, "ready", ["widget"], [])
    assert service.client.get("/health/live").json() == {"status": "alive"}
    assert value(service, "inspection_ready") == 1


@pytest.mark.slow
def test_broken_bundle_is_reported_and_does_not_affect_other_products(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models, "bolt")
    broken = write_tiny_bundle(models, "nut")
    (broken.path / "model.onnx").write_bytes(b"changed afterwards")
    with serve(models=models) as service:
        status, body = readiness(service)
        assert (status, body.status, body.products) == (200, "degraded", ["bolt"])
        (problem,) = body.broken_bundles
        assert (problem.product, problem.version, problem.type) == ("nut", broken.version, "bundle-integrity")
        assert "model.onnx" in problem.reason
        assert service.client.get("/v1/products/nut").json()["status"] == "broken"
        response = service.client.post(
            "/v1/products/bolt/inspections", content=GOOD, headers={"content-type": "image/png"}
        )
        assert response.status_code == 201


def test_missing_required_product_makes_the_service_not_ready(serve: Serve) -> None:
    with serve(required_products="widget, gadget") as service:
        status, body = readiness(service)
        assert (status, body.status) == (503, "not-ready")
        assert "gadget" in body.reasons[0]
        assert service.inspect().status_code == 201, "products that are loaded work"
        assert value(service, "inspection_ready") == 0


@pytest.mark.slow
def test_empty_repository_is_not_ready_and_its_path_is_logged(serve: Serve, tmp_path: Path) -> None:
    missing, empty = tmp_path / "nothing", tmp_path / "empty"
    empty.mkdir()
    for models, words in ((missing, "does not exist"), (empty, "holds no bundle")):
        with capture_logs() as log, serve(models=models) as service:
            status, body = readiness(service)
        assert status == 503
        assert body.reasons[0] == f"The model repository $PLUMBLINE_MODELS {words}."
        reasons = [entry["reason"] for entry in log if entry["log_level"] == "error"]
        assert reasons[0] == f"The model repository {models} {words}.", "the log names the folder"


def test_service_without_an_active_bundle_names_the_products(serve: Serve, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    bundle = write_tiny_bundle(tmp_path / "made", "nut")
    archive = io.BytesIO()
    write_archive(bundle, archive)
    url = "/v1/products/nut/bundles"
    with serve(models=empty) as service:
        content, headers = archive.getvalue(), {"content-type": "application/zip"}
        stored = service.client.post(f"{url}?create_product=true", content=content, headers=headers)
        assert stored.status_code == 201, stored.text
        status, body = readiness(service)
        assert (status, body.status) == (503, "not-ready")
        assert body.reasons == ["None of the bundles is active. Activate one of nut."]
        who = {"author": "Ada", "reason": "the first bundle"}
        assert service.client.post(f"{url}/{bundle.version}:activate", json=who).status_code == 200
        assert readiness(service)[0] == 200


def test_missing_cuda_that_was_requested_makes_the_service_not_ready(serve: Serve) -> None:
    with serve(provider="cuda") as service:
        status, body = readiness(service)
        if status == 200:
            pytest.skip("CUDA works here")
        assert body.broken_bundles[0].type == "provider-unavailable"
        assert any("driver" in reason or "library" in reason or "CUDA" in reason for reason in body.reasons)
        assert service.inspect().status_code == 503


def test_newest_bundle_serves(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models)
    newer = write_tiny_bundle(models, created_at=NEWER)
    with serve(models=models) as service:
        assert service.inspect().json()["bundle"]["digest"] == newer.digest


def test_conversion_beside_a_bundle_is_not_active_by_default(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    bundle = write_tiny_bundle(models)
    converted = write_tiny_bundle(models, created_at=NEWER, precision="int8", converted_from=bundle.digest)
    with serve(models=models) as service:
        assert service.inspect().json()["bundle"]["digest"] == bundle.digest
        path = f"/v1/products/widget/bundles/{converted.version}:activate"
        chosen = service.client.post(path, json={"author": "Ada", "reason": "faster"})
        assert chosen.status_code == 200, chosen.text
    with serve(models=models) as service:
        assert service.inspect().json()["bundle"]["digest"] == converted.digest, "the stored choice counts"


@pytest.mark.slow
def test_previous_bundle_serves_if_the_newest_fails_its_self_test(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    older = write_tiny_bundle(models)
    newer = write_tiny_bundle(models, created_at=NEWER, offset=0.5)
    with serve(models=models) as service:
        assert service.inspect().json()["bundle"]["digest"] == older.digest
        _, body = readiness(service)
        assert body.status == "degraded"
        assert [(item.version, item.type) for item in body.broken_bundles] == [(newer.version, "parity-failure")]


@pytest.mark.slow
def test_recipe_of_another_bundle_is_derived_again(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models)
    who = {"author": "a", "reason": "b"}
    with serve(models=models) as service:
        service.client.put("/v1/products/widget/recipe", json=who | {"target_false_reject_rate": 0.1})
    doubled = write_tiny_bundle(models, created_at=NEWER, scores=[rank / 50 for rank in range(99)])
    with serve(models=models) as service:
        record = service.client.get("/v1/products/widget/recipe").json()
        assert record["revision"] == 3
        assert record["bundle_digest"] == doubled.digest
        assert record["recipe"]["target_false_reject_rate"] == 0.1
        assert record["recipe"]["fail_threshold"] == doubled.card.scores[89], "the rate stays, the threshold changes"
        service.client.put("/v1/products/widget/recipe", json=who | {"fail_threshold": 3, "review_threshold": 2})
    write_tiny_bundle(models, created_at=datetime(2026, 3, 1, tzinfo=UTC))
    with serve(models=models) as service:
        record = service.client.get("/v1/products/widget/recipe").json()
        assert record["recipe"]["target_false_reject_rate"] == 0.01, (
            "a threshold set by hand is not valid for another bundle"
        )
        assert "by hand" in record["reason"]


@pytest.mark.slow
def test_metrics_count_decisions(serve: Serve, tiny_bundle: Bundle) -> None:
    with serve(queue_limit=17) as service:
        service.inspect(GOOD)
        service.inspect(BAD)
        service.inspect(BAD, headers={"accept": "image/png"})
        assert value(service, "inspection_requests_total", product="widget", decision="pass") == 1
        assert value(service, "inspection_requests_total", product="widget", decision="fail") == 2
        assert value(service, "inspection_requests_total", product="widget", decision="review") == 0
        for stage in ("decode", "preprocess", "queue", "infer", "postprocess", "store"):
            assert value(service, "inspection_stage_duration_seconds_count", stage=stage) == 3
        assert value(service, "inspection_stage_duration_seconds_count", stage="encode") == 1
        assert value(service, "inspection_score_count", product="widget") == 3
        assert value(service, "inspection_score_bucket", product="widget", le="+Inf") == 3
        assert value(service, "inspection_queue_limit") == 17
        assert value(service, "inspection_queue_depth") == 0
        assert value(service, "inspection_batch_size_count") == 3
        info = {
            "product": "widget",
            "version": tiny_bundle.version,
            "sha256": tiny_bundle.digest,
            "provider": "cpu",
        }
        assert value(service, "inspection_model_info", **info) == 1
        assert value(service, "inspection_threshold", product="widget", kind="fail") == tiny_bundle.card.scores[98]
        assert value(service, "inspection_recipe_revision", product="widget") == 1
        route = "/v1/products/{product}/inspections"
        assert value(service, "http_requests_total", method="POST", route=route, status="201") == 3


def test_duration_of_served_images_is_measured_apart_from_rejected_requests(serve: Serve) -> None:
    route = "/v1/products/{product}/inspections"
    with serve() as service:
        for _ in range(3):
            assert service.inspect(GOOD).status_code == 201
        service.admission.close()
        for _ in range(5):
            assert service.inspect(GOOD).status_code == 503

        assert value(service, "inspection_duration_seconds_count", product="widget") == 3
        assert value(service, "inspection_p_value_count", product="widget") == 3
        for status_class, count in (("2xx", 3), ("5xx", 5)):
            labels = {"method": "POST", "route": route, "status_class": status_class}
            assert value(service, "http_request_duration_seconds_count", **labels) == count


def test_disk_space_and_target_rates_are_exposed(serve: Serve) -> None:
    with serve() as service:
        for folder in ("data", "models"):
            free, total = (value(service, f"inspection_disk_{kind}_bytes", folder=folder) for kind in ("free", "total"))
            assert free is not None
            assert total is not None
            assert 0 < free <= total
        assert value(service, "inspection_target_rate", product="widget", kind="fail") == 0.01


def test_values_sent_by_clients_never_become_labels(serve: Serve) -> None:
    with serve() as service:
        for path in ("/wp-admin", "/v1/products/ghost", "/v1/inspections/ghost"):
            service.client.get(path)
        service.client.request("GHOST", "/health/live")
        service.client.post("/v1/products/ghost/inspections", content=GOOD, headers={"content-type": "image/png"})
        text = service.client.get("/metrics").text
        assert "ghost" not in text.lower()
        assert "wp-admin" not in text
        assert value(service, "http_requests_total", method="GET", route="unmatched", status="404") == 1
        assert value(service, "inspection_problems_total", type="unknown-product") == 2


@pytest.mark.parametrize("sent", ["line-7/4711", "a" * 128])
def test_request_id_of_the_client_is_used_and_returned(service: HttpService, sent: str) -> None:
    response = service.client.get("/v1/inspections/x", headers={"x-request-id": sent})
    assert response.headers["x-request-id"] == sent
    assert response.json()["instance"] == f"urn:plumbline:request:{sent}"


@pytest.mark.own_server
@pytest.mark.parametrize("sent", ["", "a" * 129, "two words", 'quote"'])
def test_request_id_that_could_harm_a_log_is_replaced(service: HttpService, sent: str) -> None:
    response = service.client.get("/health/live", headers={"x-request-id": sent})
    assert response.headers["x-request-id"] != sent
    assert len(response.headers["x-request-id"]) == 36


def test_trace_context_is_passed_on(service: HttpService) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert service.client.get("/health/live", headers={"traceparent": trace}).headers["traceparent"] == trace
    assert "traceparent" not in service.client.get("/health/live", headers={"traceparent": "x"}).headers


def test_urls_of_the_index_exist(service: RunningService) -> None:
    index = service.client.get("/").json()
    for name in ("products", "ready", "metrics", "openapi"):
        assert service.client.get(index[name]).status_code == 200
