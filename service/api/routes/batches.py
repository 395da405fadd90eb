"""Several images in one call: a form with many images, or a zip file."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from service.api.answers import inspection_answer
from service.api.deps import LineDep, ProductPath
from service.api.http.forms import IMAGE_FIELD, MULTIPART
from service.api.http.image_source import ImageSource
from service.api.http.problems import (
    EarlyResponse,
    body_was_read,
    known_error,
    problem_body,
    problem_responses,
    request_id,
)
from service.api.routes.inspections import BINARY, INSPECT_ERRORS, buffer_layout, part_record
from service.errors import BadArchive, InvalidRequest, PlumblineError, TooManyImages, UnsupportedMediaType
from service.schemas.batch import BatchAnswer, BatchItem
from service.schemas.common import BufferHeaders, PartFields
from service.schemas.problem import Problem
from service.serving.batch import Frame, Outcome, inspect_in_order
from service.untrusted_zip import MEDIA_TYPE as ZIP

router = APIRouter(tags=["inspections"])

_MEDIA_TYPES = (MULTIPART, ZIP)
_FORM_SCHEMA = {
    "type": "object",
    "required": [IMAGE_FIELD],
    "properties": {IMAGE_FIELD: {"type": "array", "items": BINARY}},
}


@router.post(
    "/v1/products/{product}/inspections:batch",
    operation_id="inspect_batch",
    summary="Inspect several images",
    response_model=BatchAnswer,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A form with several files in its field `image`, or a zip file of images.",
            "content": {MULTIPART: {"schema": _FORM_SCHEMA}, ZIP: {"schema": BINARY}},
        }
    },
    responses=problem_responses(*INSPECT_ERRORS, TooManyImages, BadArchive),
)
async def inspect_batch(
    request: Request,
    product: ProductPath,
    part: Annotated[PartFields, Query()],
    buffer: Annotated[BufferHeaders, Header()],
    line: LineDep,
) -> Response:
    """Judge images one after the other; answer what became of each, in their order. One that fails, fails alone: it
    has a problem in its place.

    The query and, for camera buffers, the headers hold for all of them. The images of a form are inspected while the
    body still comes in, a few at a time, so a long call needs no more memory than a short one. Where the body breaks
    off, the images before are answered and the last item says what was wrong; where there was none before, the call
    itself fails.
    """
    active = line.registry.get(product)
    layout = buffer_layout(active, buffer)
    content_type = request.headers.get("content-type", "")
    media_type = content_type.split(";")[0].strip().lower()
    if media_type not in _MEDIA_TYPES:
        raise UnsupportedMediaType(content_type or None, _MEDIA_TYPES)
    source = ImageSource(request, line.settings, Frame(b"", part_record(request, part), layout=layout))
    frames = source.zipped() if media_type == ZIP else source.form(content_type)
    items: list[BatchItem] = []
    named = request_id(request.scope)
    try:
        async with aclosing(frames), aclosing(inspect_in_order(line, product, frames)) as outcomes:
            async for outcome in outcomes:
                items.append(_item(len(items), outcome, named))
    except PlumblineError as error:
        if not items:
            raise
        line.metrics.count_refusal(error)
        items.append(BatchItem(index=len(items), name=None, problem=Problem(**problem_body(error, named))))
    if not items:
        raise InvalidRequest("The request holds no image. Send several files in the field `image`, or a zip file.")
    counts = Counter("problem" if item.inspection is None else item.inspection.decision for item in items)
    content = BatchAnswer(items=items, counts=counts).model_dump_json().encode()
    return EarlyResponse(content, media_type="application/json", close=not body_was_read(request.scope))


def _item(index: int, outcome: Outcome, named: str) -> BatchItem:
    if outcome.row is not None:
        return BatchItem(index=index, name=outcome.frame.label, inspection=inspection_answer(outcome.row))
    assert outcome.error is not None
    problem = Problem(**problem_body(known_error(outcome.error), named))
    return BatchItem(index=index, name=outcome.frame.label, problem=problem)
