"""The endpoint `DetectAnomalies` of Amazon Lookout for Vision, for programs that were written for that service."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from service.api.deps import ArtefactsDep, ClientDep, InspectionsDep, PrincipalDep, SettingsDep
from service.api.http.access import requires
from service.api.http.aws_errors import AWS_PREFIX
from service.api.http.bodies import receive_upload, require_media_type
from service.api.http.body_limit import IMAGE, limit_body
from service.api.http.clients import wait_for_disconnect
from service.api.http.middleware import ARRIVED
from service.api.http.problems import problem_responses, request_id
from service.api.lookout.errors import PartNotInspected
from service.api.lookout.results import ANOMALY_COLOUR, DetectAnomaliesResponse, to_response
from service.api.parameters import IdempotencyHeader, ProductPath, part_record
from service.api.responses import BINARY, INSPECT_ERRORS, verdict_headers
from service.deployment.errors import VersionNotActive
from service.schemas.common import Name, PartFields
from service.serving.image import Image, RequestKey
from service.store.errors import IdempotencyKeyUsed

router = APIRouter(tags=["compatibility"])

_MEDIA_TYPES = ("image/jpeg", "image/png")
_ACTIVE = frozenset({"active", "1"})
_INVOCATION = re.compile(r"[\x21-\x7e]{1,100}")

ModelVersionPath = Annotated[
    Name, Path(description="`active` or `1` for the active bundle, or the version of the active bundle.")
]


@router.post(
    AWS_PREFIX + "projects/{product}/models/{model_version}/detect",
    operation_id="detect_anomalies",
    summary="Detect anomalies as Amazon Lookout for Vision does",
    response_model=DetectAnomaliesResponse,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The encoded image.",
            "content": {name: {"schema": BINARY} for name in _MEDIA_TYPES},
        }
    },
    responses=problem_responses(VersionNotActive, PartNotInspected, IdempotencyKeyUsed, *INSPECT_ERRORS),
)
@limit_body(IMAGE)
@requires("inspect")
async def detect_anomalies(
    request: Request,
    product: ProductPath,
    model_version: ModelVersionPath,
    part: Annotated[PartFields, Query()],
    inspections: InspectionsDep,
    artefacts: ArtefactsDep,
    client: ClientDep,
    principal: PrincipalDep,
    settings: SettingsDep,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Inspect a JPEG or PNG image and return the decision in the form of `DetectAnomalies`, version 2020-11-20.

    The project is the product. The inspection is stored like any other; its id and decision are in the `X-Plumbline-*`
    headers. `Confidence` follows from the p-value and is not the probability of a defect. An image that the quality
    check rejects is refused with `ValidationException`, because it is neither normal nor anomalous.

    Signatures of AWS are not verified: authenticate with `X-API-Key` or `Authorization: Bearer`. A request that an AWS
    SDK sends again (`amz-sdk-invocation-id`), or that has the same `Idempotency-Key`, is inspected once.
    """
    await inspections.require_ready(product)
    _require_served(product, model_version, inspections.active_version(product))
    with inspections.accept(client):
        require_media_type(request, _MEDIA_TYPES)
        upload = await receive_upload(request)
        name = idempotency_key or _invocation_key(request)
        key = None if name is None else RequestKey(principal.id, name)
        image = Image(
            upload.image,
            part_record(request, part),
            key=key,
            version=None if model_version in _ACTIVE else model_version,
            arrived=request.scope.get(ARRIVED),
        )
        async with inspections.turn(product, client, partial(wait_for_disconnect, request.receive)) as since:
            record = (await inspections.inspect_once(product, image, since)).record
            if record.objections:
                reasons = dict.fromkeys(item["reason"] for item in record.objections)
                details = dict.fromkeys(item["detail"] for item in record.objections)
                raise PartNotInspected(record.id, list(reasons), list(details))
            mask = await artefacts.draw_mask(record, ANOMALY_COLOUR)
    response = to_response(record, mask, is_review_anomalous=settings.lookout_review_is_anomalous)
    headers = {"x-amzn-RequestId": request_id(request.scope), **verdict_headers(record)}
    return Response(response.model_dump_json(), 200, headers, "application/json")


def _require_served(product: str, model_version: str, active: str) -> None:
    """Raise `VersionNotActive` unless the active bundle has the requested version."""
    if model_version not in _ACTIVE and model_version != active:
        raise VersionNotActive(product, model_version, active, "Request the model version 'active' to use it.")


def _invocation_key(request: Request) -> str | None:
    """Return an idempotency key from the id that AWS SDKs give to a call and all its attempts; None without."""
    invocation = request.headers.get("amz-sdk-invocation-id", "")
    return f"amz-sdk-{invocation}" if _INVOCATION.fullmatch(invocation) else None
