"""The endpoint that is compatible with Amazon Lookout for Vision."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
import cv2
import httpx
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

from service.access.principal import Scope
from service.api.lookout.results import is_anomalous
from service.serving.inspections import InspectionService
from service.settings import Settings
from tests.access import make_key
from tests.bundles import part, tiny_quality, write_tiny_bundle
from tests.running_service import BAD, GOOD, HttpService, RunningService, Serve, encode

PATH = "/2020-11-20/projects/widget/models/{}/detect"
# Headers that a client of AWS sends. The signature is of a key that this service does not have.
SIGNED = {
    "content-type": "image/png",
    "x-amz-content-sha256": "0" * 64,
    "x-amz-date": "20260301T083000Z",
    "authorization": "AWS4-HMAC-SHA256 Credential=AKIA/20260301/us-east-1/lookoutvision/aws4_request, "
    "SignedHeaders=host, Signature=0",
}


def detect(service: HttpService, image: bytes = GOOD, version: str = "active", **headers: str) -> httpx.Response:
    return service.client.post(PATH.format(version), content=image, headers=SIGNED | headers)


def mask_of(result: dict[str, Any]) -> Any:
    data = np.frombuffer(base64.b64decode(result["AnomalyMask"]), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1]


def test_good_part_is_normal(service: HttpService) -> None:
    response = detect(service)
    stored = service.client.get(f"/v1/inspections/{response.headers['x-plumbline-id']}").json()
    assert response.status_code == 200
    assert response.headers["x-amzn-requestid"] == response.headers["x-request-id"]
    (result,) = response.json().values()
    assert set(response.json()) == {"DetectAnomalyResult"}
    assert set(result) == {"Source", "IsAnomalous", "Confidence", "Anomalies", "AnomalyMask"}
    assert result["Source"] == {"Type": "direct"}
    assert (result["IsAnomalous"], result["Confidence"]) == (False, stored["p_value"])
    assert result["Anomalies"] == [
        {"Name": "background", "PixelAnomaly": {"TotalPercentageArea": 1.0, "Color": "#FFFFFF"}}
    ]
    assert (mask_of(result) == 255).all()


def test_defect_is_anomalous_and_marked_in_the_mask(service: HttpService) -> None:
    response = detect(service, BAD, **{"content-type": "image/jpeg"})  # the content decides the format
    (result,) = response.json().values()
    stored = service.client.get(f"/v1/inspections/{response.headers['x-plumbline-id']}").json()
    assert (result["IsAnomalous"], result["Confidence"]) == (True, 1 - stored["p_value"])
    mask = mask_of(result)
    assert mask.shape == (64, 64, 3)
    marked = (mask == (0x23, 0xA4, 0x36)).all(axis=2)
    assert ((mask == 255).all(axis=2) | marked).all()
    (region,) = stored["regions"]
    x, y, width, height = region["bbox"]
    assert marked[y + height // 2, x + width // 2]
    assert not marked[:y].any()
    assert not marked[:, :x].any()
    areas = {item["Name"]: item["PixelAnomaly"] for item in result["Anomalies"]}
    assert areas["anomaly"] == {"TotalPercentageArea": marked.mean(), "Color": "#23A436"}
    assert areas["background"]["TotalPercentageArea"] == pytest.approx(1 - marked.mean())


def test_active_bundle_may_be_named(service: HttpService) -> None:
    version = service.client.get("/v1/products/widget").json()["bundle"]["version"]
    assert [detect(service, version=name).status_code for name in ("active", "1", version)] == [200] * 3
    response = detect(service, version="2")
    assert (response.status_code, response.headers["x-amzn-errortype"]) == (404, "ResourceNotFoundException")
    assert f"The active version is {version}. Request the model version 'active'" in response.json()["Message"]


def test_bundle_that_is_activated_meanwhile_is_not_taken_for_the_requested_one(service: HttpService) -> None:
    with patch.object(InspectionService, "active_version", return_value="other"):
        response = detect(service, version="other")
    assert (response.status_code, response.headers["x-problem-type"]) == (404, "/problems#version-not-active")


@pytest.mark.parametrize(
    ("path", "image", "headers", "status", "name", "slug"),
    [
        (PATH.format(1), b"no image", {}, 400, "ValidationException", "not-an-image"),
        (PATH.format(1), b"", {}, 400, "ValidationException", "invalid-request"),
        (PATH.format(1), GOOD, {"content-type": "image/bmp"}, 400, "ValidationException", "unsupported-media-type"),
        (PATH.format(1), bytes(100_001), {}, 400, "ValidationException", "body-too-large"),
        (PATH.format(1) + "?lots=1", GOOD, {}, 400, "ValidationException", "invalid-request"),
        (PATH.format(1), GOOD, {"host": "evil.example"}, 403, "AccessDeniedException", "host-not-allowed"),
        (PATH.format(1), GOOD, {"origin": "http://evil.example"}, 403, "AccessDeniedException", "foreign-origin"),
        (PATH.format(1).replace("widget", "gadget"), GOOD, {}, 404, "ResourceNotFoundException", "unknown-product"),
        ("/2020-11-20/projects", GOOD, {}, 404, "ResourceNotFoundException", "not-found"),
    ],
)
def test_errors_have_the_form_of_aws(
    service: HttpService, path: str, image: bytes, headers: dict[str, str], status: int, name: str, slug: str
) -> None:
    response = service.client.post(path, content=image, headers=SIGNED | headers)
    assert (response.status_code, response.headers["x-amzn-errortype"]) == (status, name)
    assert response.headers["x-problem-type"] == f"/problems#{slug}"
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) <= {"Message", "ResourceId", "ResourceType"}
    assert response.json()["Message"]


def test_wrong_method_has_the_form_of_aws(service: HttpService) -> None:
    response = service.client.get(PATH.format(1))
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.headers["x-amzn-errortype"] == "ValidationException"


def test_full_queue_is_throttling(serve: Serve) -> None:
    with serve(queue_limit=1, max_batch=1) as service, service.occupied():
        response = detect(service)
        problem = service.inspect()
    assert (response.status_code, response.headers["x-amzn-errortype"]) == (429, "ThrottlingException")
    assert response.headers["retry-after"] == problem.headers["retry-after"]


def test_unexpected_error_is_an_internal_one(service: RunningService) -> None:
    with patch.object(InspectionService, "inspect_once", side_effect=RuntimeError("secret")):
        response = detect(service)
    assert (response.status_code, response.headers["x-amzn-errortype"]) == (500, "InternalServerException")
    assert "secret" not in response.text


def test_image_that_the_quality_check_rejects_is_neither_normal_nor_anomalous(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models, quality=tiny_quality(brightness=(120, 136)))
    with serve(models=models) as service:
        response = detect(service, encode(part(brightness=5)))
        assert (response.status_code, response.headers["x-amzn-errortype"]) == (400, "ValidationException")
        assert response.headers["x-problem-type"] == "/problems#part-not-inspected"
        (item,) = service.client.get("/v1/inspections").json()["items"]
    assert item["decision"] == "invalid"
    assert item["id"] in response.json()["Message"]


def test_review_is_anomalous_unless_it_is_set_otherwise() -> None:
    assert Settings.model_fields["lookout_review_is_anomalous"].default is True
    assert is_anomalous("review", is_review_anomalous=True)
    assert not is_anomalous("review", is_review_anomalous=False)
    assert is_anomalous("fail", is_review_anomalous=False)
    assert not is_anomalous("pass", is_review_anomalous=True)


@pytest.mark.parametrize("is_review_anomalous", [True, False])
def test_setting_decides_about_review(serve: Serve, *, is_review_anomalous: bool) -> None:
    with serve(lookout_review_is_anomalous=is_review_anomalous) as service:
        change = {"fail_threshold": 9.0, "review_threshold": 0.001, "author": "Ada", "reason": "test"}
        changed = service.client.put("/v1/products/widget/recipe", json=change)
        assert changed.status_code == 200, changed.text
        response = detect(service, BAD)
    assert response.headers["x-plumbline-decision"] == "review"
    assert response.json()["DetectAnomalyResult"]["IsAnomalous"] is is_review_anomalous


@pytest.mark.parametrize("header", ["amz-sdk-invocation-id", "Idempotency-Key"])
def test_repeated_attempt_is_inspected_once(service: HttpService, header: str) -> None:
    ids = {detect(service, BAD, **{header: "detect-1"}).headers["x-plumbline-id"] for _ in range(2)}
    other = detect(service, BAD, **{header: "detect-2"}).headers["x-plumbline-id"]
    assert (len(ids), other in ids) == (1, False)
    assert detect(service, GOOD, **{header: "detect-1"}).headers["x-problem-type"] == "/problems#idempotency-key-used"


MODEL = {
    "version": "2.0",
    "metadata": {
        "apiVersion": "2020-11-20",
        "endpointPrefix": "lookoutvision",
        "protocol": "rest-json",
        "protocols": ["rest-json"],
        "serviceId": "LookoutVision",
        "serviceFullName": "Amazon Lookout for Vision",
        "signatureVersion": "v4",
        "signingName": "lookoutvision",
        "jsonVersion": "1.1",
        "auth": ["aws.auth#sigv4"],
    },
    "operations": {
        "DetectAnomalies": {
            "name": "DetectAnomalies",
            "http": {
                "method": "POST",
                "requestUri": "/2020-11-20/projects/{projectName}/models/{modelVersion}/detect",
            },
            "input": {"shape": "Request"},
            "output": {"shape": "Response"},
            "errors": [{"shape": "ResourceNotFoundException"}, {"shape": "ValidationException"}],
        }
    },
    "shapes": {
        "Request": {
            "type": "structure",
            "required": ["ProjectName", "ModelVersion", "Body", "ContentType"],
            "members": {
                "ProjectName": {"shape": "String", "location": "uri", "locationName": "projectName"},
                "ModelVersion": {"shape": "String", "location": "uri", "locationName": "modelVersion"},
                "Body": {"shape": "Stream"},
                "ContentType": {"shape": "String", "location": "header", "locationName": "Content-Type"},
            },
            "payload": "Body",
        },
        "Response": {"type": "structure", "members": {"DetectAnomalyResult": {"shape": "Result"}}},
        "Result": {
            "type": "structure",
            "members": {
                "Source": {"shape": "Source"},
                "IsAnomalous": {"shape": "Boolean"},
                "Confidence": {"shape": "Float"},
                "Anomalies": {"shape": "Anomalies"},
                "AnomalyMask": {"shape": "Blob"},
            },
        },
        "Source": {"type": "structure", "members": {"Type": {"shape": "String"}}},
        "Anomalies": {"type": "list", "member": {"shape": "Anomaly"}},
        "Anomaly": {
            "type": "structure",
            "members": {"Name": {"shape": "String"}, "PixelAnomaly": {"shape": "PixelAnomaly"}},
        },
        "PixelAnomaly": {
            "type": "structure",
            "members": {"TotalPercentageArea": {"shape": "Float"}, "Color": {"shape": "String"}},
        },
        **{
            name: {
                "type": "structure",
                "members": {"Message": {"shape": "String"}},
                "error": {"httpStatusCode": status},
                "exception": True,
            }
            for name, status in (("ResourceNotFoundException", 404), ("ValidationException", 400))
        },
        "String": {"type": "string"},
        "Boolean": {"type": "boolean"},
        "Float": {"type": "float"},
        "Blob": {"type": "blob"},
        "Stream": {"type": "blob", "requiresLength": True, "streaming": True},
    },
}
"""The operation as the public API reference describes it. Current versions of botocore no longer have the service."""


@contextmanager
def boto3_client(service: RunningService, folder: Path) -> Iterator[Any]:
    """Yield a client of boto3 for the service."""
    described = folder / "lookoutvision" / "2020-11-20"
    described.mkdir(parents=True)
    (described / "service-2.json").write_text(json.dumps(MODEL), encoding="utf-8")
    session = Session()
    session.get_component("data_loader").search_paths.append(str(folder))
    made = boto3.Session("any", "any", region_name="us-east-1", botocore_session=session)
    options = Config(retries={"total_max_attempts": 1}, proxies={})
    client = made.client("lookoutvision", endpoint_url=f"http://127.0.0.1:{service.port}", config=options)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def lookout(service: RunningService, tmp_path: Path) -> Iterator[Any]:
    with boto3_client(service, tmp_path) as client:
        yield client


def test_boto3_with_an_event_hook_that_adds_the_key(secured: RunningService, tmp_path: Path) -> None:
    given = {"ProjectName": "widget", "ModelVersion": "1", "Body": BAD, "ContentType": "image/png"}
    key = make_key(secured.store.engine, "inspect").key

    def add_key(request: Any, **_: Any) -> None:
        request.headers["X-API-Key"] = key

    with boto3_client(secured, tmp_path) as client:
        with pytest.raises(ClientError) as refused:
            client.detect_anomalies(**given)
        client.meta.events.register("before-send.lookoutvision.*", add_key)
        assert client.detect_anomalies(**given)["DetectAnomalyResult"]["IsAnomalous"] is True
    assert refused.value.response["Error"]["Code"] == "AccessDeniedException"


@pytest.mark.parametrize(
    ("scopes", "products", "status"),
    [(("inspect",), None, 200), (("engineer",), None, 403), (("inspect",), ["gadget"], 403)],
)
def test_key_needs_the_scope_and_the_product(
    secured: RunningService, anonymous: httpx.Client, scopes: tuple[Scope, ...], products: list[str] | None, status: int
) -> None:
    key = make_key(secured.store.engine, *scopes, products=products)
    response = anonymous.post(PATH.format(1), content=GOOD, headers=SIGNED | {"X-API-Key": key.key})
    assert response.status_code == status
    if status == 403:
        assert response.headers["x-amzn-errortype"] == "AccessDeniedException"


def test_request_without_a_key_is_denied(secured: RunningService, anonymous: httpx.Client) -> None:
    response = anonymous.post(PATH.format(1), content=GOOD, headers=SIGNED)
    assert (response.status_code, response.headers["x-amzn-errortype"]) == (401, "AccessDeniedException")


def test_boto3_detects_anomalies(lookout: Any) -> None:
    found = lookout.detect_anomalies(ProjectName="widget", ModelVersion="1", Body=BAD, ContentType="image/png")[
        "DetectAnomalyResult"
    ]
    assert (found["IsAnomalous"], found["Source"]) == (True, {"Type": "direct"})
    assert 0.9 < found["Confidence"] <= 1
    assert found["AnomalyMask"].startswith(b"\x89PNG")
    assert [item["Name"] for item in found["Anomalies"]] == ["background", "anomaly"]


def test_boto3_raises_the_errors_of_the_model(lookout: Any) -> None:
    given = {"ModelVersion": "1", "ContentType": "image/png"}
    with pytest.raises(lookout.exceptions.ResourceNotFoundException, match="gadget"):
        lookout.detect_anomalies(ProjectName="gadget", Body=GOOD, **given)
    with pytest.raises(lookout.exceptions.ValidationException) as caught:
        lookout.detect_anomalies(ProjectName="widget", Body=b"no image", **given)
    assert isinstance(caught.value, ClientError)
    assert caught.value.response["Error"]["Message"]
