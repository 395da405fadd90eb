"""Open Inference Protocol v2, with the client of Triton and with plain requests."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import pytest

from tests.bundles import SIZE, tiny_quality, write_tiny_bundle
from tests.running_service import BAD, GOOD, HttpService, RunningService, Serve, encode, run_service

tritonclient = pytest.importorskip("tritonclient.http", reason="install the extra test")

MODEL = "/v2/models/widget"
OUTPUTS = ["decision", "score", "p_value", "regions", "anomaly_map", "inspection_id"]


@pytest.fixture
def triton(service: RunningService) -> Iterator[Any]:
    client = tritonclient.InferenceServerClient(f"127.0.0.1:{service.port}")
    yield client
    client.close()


def pixels(image: bytes) -> npt.NDArray[np.uint8]:
    """Decode an image to RGB pixels."""
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[..., ::-1], np.uint8)


def infer(service: HttpService, document: dict[str, Any], binary: bytes = b"", **headers: str) -> httpx.Response:
    head = json.dumps(document).encode()
    if binary:
        headers = {
            "Inference-Header-Content-Length": str(len(head)),
            "Content-Type": "application/octet-stream",
        } | headers
    return service.client.post(f"{MODEL}/infer", content=head + binary, headers=headers)


def encoded(*images: bytes) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": data}


def outputs(response: httpx.Response) -> dict[str, list[Any]]:
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


def test_server_and_model_describe_themselves(triton: Any, service: RunningService) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("widget")
    metadata = triton.get_server_metadata()
    assert (metadata["name"], metadata["extensions"]) == ("plumbline", ["binary_tensor_data"])
    model = triton.get_model_metadata("widget")
    version = service.client.get("/v1/products/widget").json()["bundle"]["version"]
    assert (model["name"], model["versions"], model["platform"]) == ("widget", [version], "onnx_onnxv1")
    assert [item["name"] for item in model["inputs"]] == ["image"]
    assert [item["name"] for item in model["outputs"]] == OUTPUTS
    assert triton.is_model_ready("widget", version)
    assert not triton.is_model_ready("widget", "000000000000")
    assert not triton.is_model_ready("ghost")


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("shape", ["HWC", "NHWC"])
def test_triton_client_sends_pixels(triton: Any, service: RunningService, is_binary: bool, shape: str) -> None:
    image = pixels(BAD)
    sent = image if shape == "HWC" else np.stack([image, pixels(GOOD)])
    tensor = tritonclient.InferInput("image", list(sent.shape), "UINT8")
    tensor.set_data_from_numpy(sent, binary_data=is_binary)
    wanted = [tritonclient.InferRequestedOutput(name, binary_data=is_binary) for name in OUTPUTS]
    result = triton.infer("widget", [tensor], outputs=wanted, request_id="r-1")

    decisions = [item.decode() if isinstance(item, bytes) else item for item in result.as_numpy("decision")]
    assert decisions == ["fail"] if shape == "HWC" else ["fail", "pass"]
    assert result.get_response()["id"] == "r-1"
    assert result.get_response()["model_name"] == "widget"
    inspections = [item.decode() if isinstance(item, bytes) else item for item in result.as_numpy("inspection_id")]
    stored = service.client.get(f"/v1/inspections/{inspections[0]}").json()
    assert result.as_numpy("score")[0] == stored["score"]
    assert result.as_numpy("p_value")[0] == stored["p_value"]
    assert json.loads(result.as_numpy("regions")[0]) == stored["regions"]
    anomaly_map = np.load(io.BytesIO(service.client.get(stored["links"]["map"]).content))
    np.testing.assert_array_equal(result.as_numpy("anomaly_map")[0], anomaly_map)
    # The same pixels, sent as a file, have the same score.
    assert service.inspect(BAD).json()["score"] == stored["score"]


def test_triton_client_sends_encoded_images(triton: Any) -> None:
    tensor = tritonclient.InferInput("image", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([GOOD, BAD], dtype=object))
    result = triton.infer("widget", [tensor])
    assert list(result.as_numpy("decision")) == [b"pass", b"fail"]
    assert result.as_numpy("anomaly_map").shape[0] == 2


def test_gray_pixels_are_inspected(service: HttpService) -> None:
    gray = np.full((64, 64), 128, np.uint8)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 64, 64], "parameters": {"binary_data_size": gray.size}}
    found = outputs(infer(service, {"inputs": [tensor]}, gray.tobytes()))
    assert len(found["decision"]) == 1


def test_json_request_has_every_output_and_the_part(service: HttpService) -> None:
    parameters = {"part_id": "4711", "station": "s1", "lot": "l1", "captured_at": "2026-03-01T08:30:00Z"}
    response = infer(service, {"id": "x", "parameters": parameters, "inputs": [encoded(GOOD)]})
    found = outputs(response)
    assert list(found) == OUTPUTS
    stored = service.client.get(f"/v1/inspections/{found['inspection_id'][0]}").json()
    assert (stored["part_id"], stored["station"], stored["lot"]) == ("4711", "s1", "l1")
    assert response.json()["model_version"] == stored["bundle"]["version"]


def test_outputs_are_chosen_and_may_be_binary(service: HttpService) -> None:
    wanted = [{"name": "score"}, {"name": "decision", "parameters": {"binary_data": True}}]
    response = infer(service, {"inputs": [encoded(GOOD, BAD)], "outputs": wanted})
    length = int(response.headers["inference-header-content-length"])
    document, binary = json.loads(response.content[:length]), response.content[length:]
    assert [output["name"] for output in document["outputs"]] == ["score", "decision"]
    assert binary == struct.pack("<I", 4) + b"pass" + struct.pack("<I", 4) + b"fail"
    assert document["outputs"][1]["parameters"]["binary_data_size"] == len(binary)


def test_invalid_image_has_no_score_and_no_map(tmp_path: Path) -> None:
    quality = tiny_quality(
        brightness=(120, 136), dark_share=(0, 0), bright_share=(0, 0), sharpness=(150, 250), contrast=(8, 12)
    )
    write_tiny_bundle(tmp_path / "models", quality=quality)
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    with run_service(tmp_path / "models", tmp_path / "data") as service:
        found = outputs(infer(service, {"inputs": [encoded(encode(black))]}))
        pixels = {"name": "image", "datatype": "UINT8", "shape": list(black.shape), "data": black.tolist()}
        wanted = [{"name": "score", "parameters": {"binary_data": True}}]
        binary = infer(service, {"inputs": [pixels], "outputs": wanted})
    assert found["decision"] == ["invalid"]
    assert (found["score"], found["p_value"], found["anomaly_map"]) == ([None], [None], [])
    assert np.isnan(struct.unpack("<d", binary.content[-8:])[0])


def tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [encoded(GOOD) | changes]}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({"inputs": []}, "inputs"),
    "no input": ({}, "inputs"),
    "unknown member": ({"inputs": [encoded(GOOD)], "modle": 1}, "modle"),
    "other input": (tensor(name="pixels"), "exactly one input, 'image'"),
    "two inputs": ({"inputs": [encoded(GOOD), encoded(GOOD)]}, "exactly one input"),
    "datatype": (tensor(datatype="FP32"), "Expected UINT8"),
    "shape and data": (tensor(shape=[2]), "must have 2 texts"),
    "negative shape": (tensor(shape=[-1]), "Expected lengths"),
    "no images": (tensor(shape=[0], data=[]), "Expected 1 to"),
    "too many images": (tensor(shape=[10**9]), "Expected 1 to"),
    "no data": ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]}, "neither `data`"),
    "not base64": (tensor(data=["%%"]), "is not base64"),
    "no text": (tensor(data=[1]), "must have 1 texts"),
    "pixel values": (tensor(datatype="UINT8", shape=[1, 2], data=[0, 256]), "from 0 to 255"),
    "pixel count": (tensor(datatype="UINT8", shape=[2, 2], data=[0, 1]), "must have 4 whole numbers"),
    "pixel rows": (tensor(datatype="UINT8", shape=[2, 2], data=[[0, 1], [2]]), "rows of equal length"),
    "pixel texts": (tensor(datatype="UINT8", shape=[1, 2], data=["a" * 10_000, ""]), "whole numbers"),
    "pixel fractions": (tensor(datatype="UINT8", shape=[1, 2], data=[0.5, 1]), "whole numbers"),
    "pixel nesting": (tensor(datatype="UINT8", shape=[1, 1], data=[[[[[[1]]]]]]), "whole numbers"),
    "pixel shape": (tensor(datatype="UINT8", shape=[4], data=[0, 1, 2, 3]), "Expected [height, width]"),
    "channels": (tensor(datatype="UINT8", shape=[1, 1, 1, 4], data=[0, 1, 2, 3]), "Expected [height, width]"),
    "binary size": (tensor(data=None, parameters={"binary_data_size": 10}), "ends before"),
    "negative binary size": (tensor(data=None, parameters={"binary_data_size": -1}), "number of bytes"),
    "binary size and data": (tensor(parameters={"binary_data_size": 10}), "`data` must be missing"),
    "output": ({"inputs": [encoded(GOOD)], "outputs": [{"name": "mask"}]}, "no output 'mask'"),
    "output twice": ({"inputs": [encoded(GOOD)], "outputs": [{"name": "score"}] * 2}, "requested twice"),
    "part": ({"inputs": [encoded(GOOD)], "parameters": {"part_id": ""}}, "part_id"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_request_gets_an_error_of_the_protocol(service: HttpService, case: str) -> None:
    document, message = WRONG[case]
    response = infer(service, document)
    assert (response.status_code, list(response.json())) == (400, ["error"])
    assert message in response.json()["error"]
    assert response.headers["x-problem-type"] == "/problems#invalid-infer-request"


@pytest.mark.parametrize(
    ("content", "length"),
    [(b"", None), (b"[1", None), (b"{}", "3"), (b"{}", "-1"), (b"{}", "x"), (b"[" * 100_000, None), (b"\xff", None)],
)
def test_wrong_body_gets_an_error_of_the_protocol(service: HttpService, content: bytes, length: str | None) -> None:
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    response = service.client.post(f"{MODEL}/infer", content=content, headers=headers)
    assert (response.status_code, list(response.json())) == (400, ["error"])


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (struct.pack("<I", 100) + b"x", "ends before"),
        (b"\0\0", "ends before"),
        (struct.pack("<I", len(GOOD)) + GOOD + b"more", "more bytes"),
    ],
)
def test_wrong_binary_elements_are_refused(service: HttpService, elements: bytes, message: str) -> None:
    described = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(elements)}}
    response = infer(service, {"inputs": [described]}, elements)
    assert (response.status_code, message in response.json()["error"]) == (400, True)


@pytest.mark.parametrize("content", [b'{"inputs":[' + b"[]," * 400_000 + b"[]]}", b'{"x":"' + b"y" * 9 * 2**20 + b'"}'])
def test_large_json_is_refused_before_it_is_parsed(serve: Serve, content: bytes) -> None:
    with serve() as service:
        response = service.client.post(f"{MODEL}/infer", content=content)
    assert (response.status_code, "binary tensor" in response.json()["error"]) == (400, True)


def test_version_is_checked_when_the_image_is_judged(service: HttpService) -> None:
    """Another bundle may be activated after the request was accepted."""
    version = service.client.get(MODEL).json()["versions"][0]
    url = f"{MODEL}/versions/{version}/infer"
    assert service.client.post(url, json={"inputs": [encoded(GOOD)]}).json()["model_version"] == version
    with patch("service.api.routes.open_inference._active_version"):
        other = service.client.post(f"{MODEL}/versions/000000000000/infer", json={"inputs": [encoded(GOOD)]})
    assert (other.status_code, other.headers["x-problem-type"]) == (404, "/problems#version-not-active")


def test_request_that_is_sent_again_is_inspected_once(service: HttpService) -> None:
    def send() -> dict[str, list[Any]]:
        content = {"inputs": [encoded(GOOD, BAD)]}
        return outputs(service.client.post(f"{MODEL}/infer", json=content, headers={"Idempotency-Key": "oip-1"}))

    first = send()
    assert send() == first


def test_more_images_than_the_queue_holds_are_inspected(serve: Serve) -> None:
    with serve(queue_limit=8, max_batch=4) as service:
        assert len(outputs(infer(service, {"inputs": [encoded(*[GOOD] * 40)]}))["decision"]) == 40


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/ghost", 404),
        ("GET", "/v2/models/ghost/ready", 404),
        ("GET", f"{MODEL}/versions/000000000000", 404),
        ("POST", "/v2/models/ghost/infer", 404),
        ("POST", f"{MODEL}/versions/000000000000/infer", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", f"{MODEL}/infer", 405),
    ],
)
def test_other_failures_have_the_form_of_the_protocol(
    service: HttpService, method: str, path: str, status: int
) -> None:
    response = service.client.request(method, path)
    assert (response.status_code, list(response.json())) == (status, ["error"])


def test_image_that_cannot_be_decoded_fails_the_request(service: HttpService) -> None:
    response = infer(service, {"inputs": [encoded(GOOD, b"no image")]})
    assert (response.status_code, list(response.json())) == (415, ["error"])
    too_large = service.client.post(f"{MODEL}/infer", content=b"x" * 200_000)
    assert (too_large.status_code, list(too_large.json())) == (413, ["error"])


def test_capacity_errors_keep_retry_after(serve: Serve) -> None:
    with serve(queue_limit=8, max_batch=1) as service:
        service.admission.close()
        response = infer(service, {"inputs": [encoded(GOOD)]})
    assert (response.status_code, list(response.json())) == (503, ["error"])
    assert int(response.headers["retry-after"]) >= 1
