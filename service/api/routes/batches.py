"""Several images in one request: a form with several files, or a zip archive."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from service.api.deps import ArchiveSpaceDep, BodyMemoryDep, ClientDep, InspectionsDep, PrincipalDep, SettingsDep
from service.api.http.access import requires
from service.api.http.body_limit import IMAGES, limit_body
from service.api.http.forms import MULTIPART
from service.api.http.image_source import ImageSource
from service.api.http.problems import (
    EarlyResponse,
    body_was_read,
    problem_body,
    problem_responses,
    request_id,
)
from service.api.mapping import to_item
from service.api.parameters import IdempotencyHeader, ProductPath, part_record
from service.api.responses import BINARY, IMAGES_FORM, INSPECT_ERRORS
from service.errors import BadArchive, InvalidRequest, PlumblineError, ShuttingDown, TooManyImages
from service.schemas.batch import BatchItem, BatchResult
from service.schemas.common import BufferHeaders, PartFields
from service.schemas.problem import Problem
from service.serving.batch import inspect_in_order, with_keys
from service.serving.image import RequestKey, StatedBuffer
from service.untrusted_zip import MEDIA_TYPE as ZIP

router = APIRouter(tags=["inspections"])


@router.post(
    "/v1/products/{product}/inspections:batch",
    operation_id="inspect_batch",
    summary="Inspect several images",
    response_model=BatchResult,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A form with several files in the field `image`, or a zip archive of images.",
            "content": {MULTIPART: {"schema": IMAGES_FORM}, ZIP: {"schema": BINARY}},
        }
    },
    responses=problem_responses(*INSPECT_ERRORS, TooManyImages, BadArchive),
)
@limit_body(IMAGES)
@requires("inspect")
async def inspect_batch(
    request: Request,
    product: ProductPath,
    part: Annotated[PartFields, Query()],
    buffer: Annotated[BufferHeaders, Header()],
    inspections: InspectionsDep,
    settings: SettingsDep,
    client: ClientDep,
    memory: BodyMemoryDep,
    space: ArchiveSpaceDep,
    principal: PrincipalDep,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Inspect several images and return one item per image, in their order.

    If an image cannot be inspected, its item contains a problem; the other images are not affected. The query
    parameters and, for camera buffers, the headers apply to all images. Images of a form are inspected while the body
    is received, a few at a time, so memory does not grow with the number of images. If the body is incomplete, the
    images received before are inspected and the last item contains the problem; if there were none, the request fails.
    While the service stops, or can store nothing, the request is refused as a whole.

    A request with the header `Idempotency-Key` that is sent again inspects only those images that the first one did not
    inspect; the others have the inspections of the first one. The images must be the same, in the same order.
    """
    stated = StatedBuffer(buffer.x_pixel_format, buffer.x_width, buffer.x_height, buffer.x_stride)
    await inspections.require_ready(product)
    inspections.require_usable(product, stated)
    with inspections.accept(None):
        frames = ImageSource(request, settings, memory, space, part_record(request, part), stated).images()
    if idempotency_key is not None:
        frames = with_keys(frames, RequestKey(principal.id, idempotency_key))
    items: list[BatchItem] = []
    name = request_id(request.scope)
    try:
        async with aclosing(frames), aclosing(inspect_in_order(inspections, product, frames, client)) as outcomes:
            async for outcome in outcomes:
                result = outcome.result
                if isinstance(result, ShuttingDown) and all(item.inspection is None for item in items):
                    items.clear()
                    raise result  # the service began to stop while it received the request
                items.append(to_item(BatchItem, len(items), outcome, name))
    except PlumblineError as error:
        if not items:
            raise
        inspections.count_refusal(error, name)
        items.append(BatchItem(index=len(items), name=None, problem=Problem(**problem_body(error, name))))
    if not items:
        raise InvalidRequest("The request contains no image. Send several files in the field `image`, or a zip file.")
    counts = Counter("problem" if item.inspection is None else item.inspection.decision for item in items)
    content = BatchResult(items=items, counts=counts).model_dump_json().encode()
    return EarlyResponse(content, media_type="application/json", close=not body_was_read(request.scope))
