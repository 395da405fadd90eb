"""Trials: judge an image without storing it."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request

from service.api.deps import ClientDep, InspectionsDep, TrialsDep
from service.api.http.access import requires
from service.api.http.bodies import RAW_MEDIA_TYPES, receive_upload
from service.api.http.body_limit import IMAGE, limit_body
from service.api.http.clients import wait_for_disconnect
from service.api.http.forms import IMAGE_FIELD, MULTIPART
from service.api.http.problems import problem_responses
from service.api.mapping import to_trial
from service.api.parameters import ProductPath
from service.api.responses import BINARY, INSPECT_ERRORS
from service.errors import InvalidRequest
from service.schemas.common import BufferHeaders
from service.schemas.inspection import Trial
from service.serving.image import Image, StatedBuffer
from service.serving.records import PartRecord

router = APIRouter(tags=["inspections"])

_FORM = {"type": "object", "required": [IMAGE_FIELD], "properties": {IMAGE_FIELD: BINARY}}


@router.post(
    "/v1/products/{product}/inspections:try",
    operation_id="try_inspection",
    summary="Try an image",
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "As for an inspection: the encoded image, a camera buffer, or a form with either of them in "
            "the field `image`.",
            "content": {name: {"schema": BINARY} for name in RAW_MEDIA_TYPES} | {MULTIPART: {"schema": _FORM}},
        }
    },
    responses=problem_responses(*INSPECT_ERRORS),
)
@limit_body(IMAGE)
@requires("engineer")
async def try_inspection(
    request: Request,
    product: ProductPath,
    buffer: Annotated[BufferHeaders, Header()],
    inspections: InspectionsDep,
    trials: TrialsDep,
    client: ClientDep,
    max_side: Annotated[
        int,
        Query(ge=0, le=2048, description="Longest side of `preview` and `overlay` in pixels; 0 for neither of them."),
    ] = 0,
) -> Trial:
    """Judge an image with the bundle and the recipe in force, and store nothing.

    The decision is the one that an inspection would return, except that identical images are not reported as a frozen
    camera. A trial does not count in yields, drift and scores, is not sent to sinks, and has no id. Inspections have
    priority, and few trials wait at the same time.
    """
    await inspections.require_ready(product)
    stated = StatedBuffer(buffer.x_pixel_format, buffer.x_width, buffer.x_height, buffer.x_stride)
    inspections.require_usable(product, stated)
    trials.check(client)
    upload = await receive_upload(request)
    if upload.fields:
        names = ", ".join(sorted(upload.fields))
        raise InvalidRequest(f"A trial has no data about the part. Leave out the form fields: {names}.")
    disconnected = partial(wait_for_disconnect, request.receive)
    image = Image(upload.image, PartRecord(), stated)
    return to_trial(await trials.judge(product, image, max_side, client, disconnected))
