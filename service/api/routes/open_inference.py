"""Open Inference Protocol v2, for clients of Triton, KServe and MLServer: a product is a model.

Every image of a request is inspected and stored like one that was sent to `/v1`. Errors have the form of the protocol,
`{"error": "…"}`; see `ProblemResponse`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.api.deps import (
    ArtefactsDep,
    ClientDep,
    InspectionsDep,
    PrincipalDep,
    ProductsDep,
    ReadinessDep,
    SettingsDep,
)
from service.api.http.access import requires
from service.api.http.body_limit import IMAGE, limit_body
from service.api.http.problems import open_inference_responses
from service.api.mapping import to_region
from service.api.open_inference.errors import InvalidInferRequest
from service.api.open_inference.tensors import OutputTensor, TensorHeader, binary_parts, images_of, split_body
from service.api.parameters import IdempotencyHeader, ProductPath, VersionPath, part_record
from service.api.responses import BINARY, INSPECT_ERRORS
from service.deployment.errors import ProductNotReady, UnknownProduct, VersionNotActive
from service.errors import InvalidRequest
from service.schemas.common import PartFields
from service.schemas.open_inference import (
    InferRequest,
    InferResponse,
    InferTensor,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
)
from service.schemas.violations import describe_violations, list_violations
from service.serving.artefacts import ArtefactService
from service.serving.batch import Frame, inspect_in_order, with_keys
from service.serving.image import Image, RequestKey, StatedBuffer
from service.serving.inspections import InspectionService
from service.serving.records import PartRecord
from service.store.records import InspectionRecord
from service.version import VERSION

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

HEADER_LENGTH = "Inference-Header-Content-Length"
IMAGE_INPUT = "image"
PLATFORM = "onnx_onnxv1"
INPUTS = (TensorMetadata(name=IMAGE_INPUT, datatype="BYTES", shape=[-1]),)
OUTPUTS = (
    TensorMetadata(name="decision", datatype="BYTES", shape=[-1]),
    TensorMetadata(name="score", datatype="FP64", shape=[-1]),
    TensorMetadata(name="p_value", datatype="FP64", shape=[-1]),
    TensorMetadata(name="regions", datatype="BYTES", shape=[-1]),
    TensorMetadata(name="anomaly_map", datatype="FP32", shape=[-1, -1, -1]),
    TensorMetadata(name="inspection_id", datatype="BYTES", shape=[-1]),
)
_OUTPUT_NAMES = tuple(output.name for output in OUTPUTS)
_MODEL_ERRORS = open_inference_responses(UnknownProduct, VersionNotActive, InvalidRequest)
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The request as JSON, or as JSON followed by binary tensors, with the length of the JSON "
        f"document in the header `{HEADER_LENGTH}`. The input `image` is `BYTES`, encoded images (base64 in JSON), or "
        "`UINT8`, pixels of the shape [height, width], [height, width, 3], [n, height, width] or "
        "[n, height, width, 3], RGB.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
            "application/octet-stream": {"schema": BINARY},
        },
    }
}


@router.get("", operation_id="oip_server", summary="Server metadata", responses=open_inference_responses())
@requires("inspect", filters=True)
async def server() -> ServerMetadata:
    """Return the name of the server and the extensions that it supports."""
    return ServerMetadata(name="plumbline", version=VERSION, extensions=["binary_tensor_data"])


@router.get("/health/live", operation_id="oip_live", summary="Liveness", responses=open_inference_responses())
@requires(None)
async def live() -> ServerLive:
    """Return 200 while the event loop runs."""
    return ServerLive(live=True)


@router.get(
    "/health/ready",
    operation_id="oip_ready",
    summary="Readiness",
    response_model=ServerReady,
    responses={**open_inference_responses(), 503: {"description": "Not ready.", "model": ServerReady}},
)
@requires(None)
async def ready(check: ReadinessDep) -> Response:
    """Return 200 if images can be inspected, otherwise 503. `/health/ready` gives the reasons."""
    is_ready = check().is_ready
    return Response(
        ServerReady(ready=is_ready).model_dump_json(), 200 if is_ready else 503, media_type="application/json"
    )


@router.get("/models/{product}", operation_id="oip_model", summary="Model metadata", responses=_MODEL_ERRORS)
@router.get(
    "/models/{product}/versions/{version}",
    operation_id="oip_model_version",
    summary="Model metadata of a version",
    responses=_MODEL_ERRORS,
)
@requires("inspect")
async def model(product: ProductPath, products: ProductsDep, version: VersionPath | None = None) -> ModelMetadata:
    """Return versions, inputs and outputs of a product.

    The only version is that of the active bundle. The input may also be a `UINT8` tensor of pixels.
    """
    active = await _active_version(products, product, version)
    return ModelMetadata(
        name=product,
        versions=[] if active is None else [active],
        platform=PLATFORM,
        inputs=list(INPUTS),
        outputs=list(OUTPUTS),
    )


@router.get(
    "/models/{product}/ready",
    operation_id="oip_model_ready",
    summary="Model readiness",
    response_model=ModelReady,
    responses={**_MODEL_ERRORS, 503: {"description": "Not ready.", "model": ModelReady}},
)
@router.get(
    "/models/{product}/versions/{version}/ready",
    operation_id="oip_model_version_ready",
    summary="Model readiness of a version",
    response_model=ModelReady,
    responses={**_MODEL_ERRORS, 503: {"description": "Not ready.", "model": ModelReady}},
)
@requires("inspect")
async def model_ready(product: ProductPath, products: ProductsDep, version: VersionPath | None = None) -> Response:
    """Return 200 if the product is active, and 503 if not; 404 if another version than the active one is requested."""
    is_ready = await _active_version(products, product, version) is not None
    body = ModelReady(name=product, ready=is_ready).model_dump_json()
    return Response(body, 200 if is_ready else 503, media_type="application/json")


_INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "openapi_extra": _BODY,
    "responses": {
        200: {
            "description": "The outputs, as JSON or followed by binary tensors.",
            "content": {"application/octet-stream": {"schema": BINARY}},
        },
        **open_inference_responses(*INSPECT_ERRORS, ProductNotReady, VersionNotActive, InvalidInferRequest),
    },
}


@router.post("/models/{product}/infer", operation_id="oip_infer", summary="Inspect images", **_INFER)
@router.post(
    "/models/{product}/versions/{version}/infer",
    operation_id="oip_infer_version",
    summary="Inspect images with a version",
    **_INFER,
)
@requires("inspect")
@limit_body(IMAGE)
async def infer(
    request: Request,
    product: ProductPath,
    inspections: InspectionsDep,
    artefacts: ArtefactsDep,
    products: ProductsDep,
    settings: SettingsDep,
    client: ClientDep,
    principal: PrincipalDep,
    version: VersionPath | None = None,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Inspect the images of the input `image` and return one element per image in every output.

    Outputs: `decision` (`pass`, `review`, `fail` or `invalid`), `score` and `p_value` (null or NaN for invalid images),
    `regions` (a JSON text), `anomaly_map`, and `inspection_id`. Every image is stored as an inspection. `parameters`
    may have `part_id`, `station`, `lot` and `captured_at`. If one image cannot be inspected, the request fails; the
    others are stored nevertheless. With the header `Idempotency-Key`, a request that is sent again inspects only the
    images that the first one did not inspect.
    """
    await inspections.require_ready(product)
    await _active_version(products, product, version)
    with inspections.accept(client):
        body = await request.body()
        wanted = await run_in_threadpool(_parse, body, request.headers.get(HEADER_LENGTH), settings.max_call_images)
    part = part_record(request, PartFields(**wanted.request.parameters.model_dump(exclude={"binary_data_output"})))
    images = [_to_image(item, part, version) for item in wanted.images]
    key = None if idempotency_key is None else RequestKey(principal.id, idempotency_key)
    records = await _inspect_all(inspections, product, images, client, key)
    outputs = [await _output(name, records, artefacts) for name in wanted.outputs]
    return await run_in_threadpool(_respond, wanted.request, product, records[0].bundle_version, outputs)


@dataclass(frozen=True)
class _Wanted:
    """A parsed request, its images and the names of the outputs to return."""

    request: InferRequest
    images: Sequence[bytes | npt.NDArray[np.uint8]]
    outputs: Sequence[str]


async def _active_version(products: ProductsDep, product: str, version: str | None) -> str | None:
    """Return the version of the active bundle, or None if there is none.

    Raises:
        UnknownProduct: There is no such product.
        VersionNotActive: The requested version is not the active one.
    """
    state = await products.find(product)
    active = None if state.active is None else state.active.bundle.digest[:12]
    if version is not None and version != active:
        raise VersionNotActive(product, version, active)
    return active


def _parse(body: bytes, header_length: str | None, limit: int) -> _Wanted:
    document, binary = split_body(body, header_length)
    # The elements are checked by `images_of`; validating each of them as JSON value would take seconds.
    elements = _take_elements(document)
    try:
        parsed = InferRequest.model_validate(document)
    except ValidationError as error:
        violations = describe_violations(list_violations(error, InferRequest))
        raise InvalidInferRequest(f"The request does not follow the protocol: {violations}.") from error
    tensors = [_header(tensor, data) for tensor, data in zip(parsed.inputs, elements, strict=True)]
    if [tensor.name for tensor in tensors] != [IMAGE_INPUT]:
        raise InvalidInferRequest(f"The request must have exactly one input, {IMAGE_INPUT!r}.")
    (data,) = binary_parts(tensors, binary)
    return _Wanted(parsed, list(images_of(tensors[0], data, limit)), _requested(parsed))


def _take_elements(document: object) -> list[object]:
    """Remove the elements from the inputs of a request and return them; None for an input without elements."""
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(inputs, list):
        return []
    return [tensor.pop("data", None) if isinstance(tensor, dict) else None for tensor in inputs]


def _requested(parsed: InferRequest) -> Sequence[str]:
    if parsed.outputs is None:
        return _OUTPUT_NAMES
    names = [output.name for output in parsed.outputs]
    for name in names:
        if name not in _OUTPUT_NAMES:
            raise InvalidInferRequest(f"There is no output {name!r}. Outputs: {', '.join(_OUTPUT_NAMES)}.")
    if len(set(names)) != len(names):
        raise InvalidInferRequest("An output is requested twice.")
    return names


def _header(tensor: InferTensor, data: object) -> TensorHeader:
    size = tensor.parameters.get("binary_data_size")
    is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    if any(length < 0 for length in tensor.shape):
        raise InvalidInferRequest(f"Input {tensor.name!r} has the shape {tensor.shape}. Expected lengths of 0 or more.")
    if size is None and data is None:
        raise InvalidInferRequest(f"Input {tensor.name!r} has neither `data` nor `parameters.binary_data_size`.")
    if size is not None and (not is_size or data is not None):
        raise InvalidInferRequest(
            f"`binary_data_size` of input {tensor.name!r} must be a number of bytes, and `data` must be missing."
        )
    return TensorHeader(tensor.name, tensor.datatype, tuple(tensor.shape), data, size)


def _to_image(item: bytes | npt.NDArray[np.uint8], part: PartRecord, version: str | None) -> Image:
    if isinstance(item, bytes):
        return Image(item, part, version=version)
    pixel_format = "RGB8" if item.ndim == 3 else "Mono8"
    height, width = item.shape[:2]
    return Image(item.tobytes(), part, StatedBuffer(pixel_format, width, height), version=version)


async def _inspect_all(
    inspections: InspectionService, product: str, images: Sequence[Image], client: str, key: RequestKey | None
) -> Sequence[InspectionRecord]:
    """Inspect all images; the first failure is raised after all of them are done."""

    async def frames() -> AsyncGenerator[Frame]:
        for image in images:
            yield Frame(image)

    source = frames() if key is None else with_keys(frames(), key)
    results: list[InspectionRecord | Exception] = []
    async with aclosing(inspect_in_order(inspections, product, source, client)) as outcomes:
        async for outcome in outcomes:
            results.append(outcome.result)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return [result for result in results if isinstance(result, InspectionRecord)]


async def _output(name: str, records: Sequence[InspectionRecord], artefacts: ArtefactService) -> OutputTensor:
    match name:
        case "decision":
            return _texts(name, [record.decision for record in records])
        case "inspection_id":
            return _texts(name, [record.id for record in records])
        case "regions":
            found = [[to_region(region).model_dump(mode="json") for region in record.regions] for record in records]
            return _texts(name, [json.dumps(regions, separators=(",", ":")) for regions in found])
        case "score":
            return _numbers(name, [record.score for record in records])
        case "p_value":
            return _numbers(name, [record.p_value for record in records])
        case _:
            return OutputTensor(name, "FP32", await _maps(records, artefacts))


def _texts(name: str, values: Sequence[str]) -> OutputTensor:
    return OutputTensor(name, "BYTES", np.array([value.encode() for value in values], dtype=object))


def _numbers(name: str, values: Sequence[float | None]) -> OutputTensor:
    return OutputTensor(name, "FP64", np.array([np.nan if value is None else value for value in values], np.float64))


async def _maps(records: Sequence[InspectionRecord], artefacts: ArtefactService) -> npt.NDArray[np.float32]:
    """Return the anomaly maps, float32 [n, h, w]; NaN for invalid images, which have none."""
    maps = [None if record.score is None else await artefacts.read_map(record) for record in records]
    shapes = {one.shape for one in maps if one is not None}
    if len(shapes) > 1:
        raise InvalidInferRequest(
            "The anomaly maps of these images have different sizes, so they are no tensor. Send the images one by one, "
            "or request other outputs."
        )
    shape = next(iter(shapes), (0, 0))
    return np.stack([np.full(shape, np.nan, np.float32) if one is None else one for one in maps])


def _respond(parsed: InferRequest, product: str, version: str, outputs: Sequence[OutputTensor]) -> Response:
    requested = {output.name: output.parameters for output in parsed.outputs or ()}
    by_default = parsed.parameters.binary_data_output
    described, pieces = [], []
    for output in outputs:
        is_binary = bool(requested.get(output.name, {}).get("binary_data", by_default))
        document, data = output.header(is_binary=is_binary)
        described.append(document)
        pieces.append(data)
    document = {"model_name": product, "model_version": version, "outputs": described}
    if parsed.id is not None:
        document["id"] = parsed.id
    head = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    if not any(pieces):
        return Response(head, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(head + b"".join(pieces), headers=headers, media_type="application/octet-stream")
