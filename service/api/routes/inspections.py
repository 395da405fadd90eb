"""Inspections over HTTP: send an image, get a verdict; read it again later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from service.api.answers import inspection_answer
from service.api.deps import InspectionPath, LineDep, ProductPath
from service.api.http.bodies import RAW_MEDIA_TYPES, receive_upload
from service.api.http.errors import NotAcceptable, RequestTimeout
from service.api.http.forms import IMAGE_FIELD, MULTIPART
from service.api.http.middleware import TRACEPARENT
from service.api.http.negotiation import negotiate
from service.api.http.problems import problem_responses, request_id
from service.deployment.errors import ProductNotReady, UnknownProduct
from service.deployment.lease import ActiveProduct
from service.errors import BodyTooLarge, DeadlineExceeded, InvalidRequest, QueueFull, ShuttingDown, UnsupportedMediaType
from service.inspection.decoding.pixel_formats import PixelRules, RawLayout
from service.inspection.errors import (
    AreaMismatch,
    BufferSizeMismatch,
    CorruptImage,
    NotAnImage,
    PixelMismatch,
    ScoreNotFinite,
    TooManyPixels,
    UnknownPixelFormat,
)
from service.inspection.heatmap import HEATMAP_MEDIA_TYPES
from service.schemas.common import BufferHeaders, Label, PartFields
from service.schemas.inspection import Inspection, InspectionPage
from service.serving.inspections import InspectionLine
from service.serving.records import PartRecord
from service.store.errors import ArtefactGone, NotJudged, StoreUnavailable, UnknownInspection
from service.store.ids import parse_id
from service.store.inspections import InspectionFilter, get_inspection, list_inspections
from service.store.records import InspectionRecord

router = APIRouter(tags=["inspections"])

BINARY = {"type": "string", "format": "binary"}
_NPY = "application/x-npy"
INSPECT_ERRORS = (
    UnknownProduct,
    RequestTimeout,
    BodyTooLarge,
    TooManyPixels,
    UnsupportedMediaType,
    NotAnImage,
    UnknownPixelFormat,
    CorruptImage,
    BufferSizeMismatch,
    PixelMismatch,
    AreaMismatch,
    InvalidRequest,
    ScoreNotFinite,
    QueueFull,
    DeadlineExceeded,
    ShuttingDown,
    ProductNotReady,
    StoreUnavailable,
)
_ID_ERRORS = (UnknownInspection, InvalidRequest, StoreUnavailable)
_VERDICT_HEADERS = {
    name: {"description": text, "schema": {"type": kind}}
    for name, text, kind in (
        ("X-Plumbline-Id", "Id of the inspection.", "string"),
        ("X-Plumbline-Product", "The product.", "string"),
        ("X-Plumbline-Decision", "pass, review, fail or invalid.", "string"),
        ("X-Plumbline-Decision-By-Score", "The decision without region filters.", "string"),
        ("X-Plumbline-Score", "Raw image score; absent where the image is invalid.", "number"),
        ("X-Plumbline-P-Value", "How usual the score is among good parts; absent likewise.", "number"),
        ("X-Plumbline-Invalid-Reasons", "Where the image is invalid: the reasons, comma-separated.", "string"),
        ("X-Plumbline-Fail-Threshold", "A part fails strictly above.", "number"),
        ("X-Plumbline-Review-Threshold", "A part needs review strictly above.", "number"),
        ("X-Plumbline-Bundle", "Digest of the bundle.", "string"),
        ("X-Plumbline-Recipe-Revision", "Revision of the recipe.", "integer"),
    )
}
_LOCATION = {"Location": {"description": "Address of the stored inspection.", "schema": {"type": "string"}}}
_BUFFER_HEADERS = {
    name: {"description": text, "schema": {"type": kind}}
    for name, text, kind in (
        ("X-Pixel-Format", "PFNC name of a camera buffer's format.", "string"),
        ("X-Width", "Pixels in a line.", "integer"),
        ("X-Height", "Lines.", "integer"),
        ("X-Stride", "Bytes from line to line, where there is padding.", "integer"),
    )
}
_FORM_SCHEMA = {
    "type": "object",
    "required": [IMAGE_FIELD],
    "properties": {
        IMAGE_FIELD: BINARY,
        "part_id": {"type": "string"},
        "station": {"type": "string"},
        "lot": {"type": "string"},
        "captured_at": {"type": "string", "format": "date-time"},
    },
}


def binary_response(description: str, media_types: tuple[str, ...], **more: Any) -> dict[str, Any]:
    return {"description": description, "content": {name: {"schema": BINARY} for name in media_types}, **more}


@router.post(
    "/v1/products/{product}/inspections",
    operation_id="inspect",
    summary="Inspect an image",
    status_code=201,
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The encoded image or, with the headers `X-Pixel-Format`, `X-Width` and `X-Height`, a "
            "camera buffer as `application/octet-stream`; or a form with either in its field `image`.",
            "content": {name: {"schema": BINARY} for name in RAW_MEDIA_TYPES} | {MULTIPART: {"schema": _FORM_SCHEMA}},
        }
    },
    responses={
        201: {
            "description": "The verdict, stored. As JSON, or as the heatmap with the verdict in the headers.",
            "model": Inspection,
            "content": {name: {"schema": BINARY} for name in HEATMAP_MEDIA_TYPES},
            "headers": _LOCATION | _VERDICT_HEADERS,
        },
        **problem_responses(NotAcceptable, *INSPECT_ERRORS),
    },
)
async def inspect(
    request: Request,
    product: ProductPath,
    part: Annotated[PartFields, Query()],
    buffer: Annotated[BufferHeaders, Header()],
    line: LineDep,
) -> Response:
    """Judge one image: pass, review or fail; or invalid, where the image is too dark, too bright, blurred, empty,
    of the wrong size or the same as those before it, and so not worth a verdict. The answer is stored before it is
    given.

    The image is the request's body, or the field `image` of a form, where the other fields may say the
    same as the query parameters (and win over them). It is an encoded image, or, where one of the headers
    `X-Pixel-Format`, `X-Width`, `X-Height`, `X-Stride` is there, a camera buffer, little endian; what these do not say,
    the recipe declares. With `Accept: image/png`, `image/jpeg` or `image/webp`
    the answer is the heatmap over the image and the verdict stands in the `X-Plumbline-*` headers. A
    client that hangs up while its image is in work gets no answer, but the inspection is stored all the
    same.
    """
    try:
        # What cannot be inspected is refused before the image is received; the bundle that judges it is leased later.
        active = line.registry.get(product)
        wanted = negotiate(request.headers.get("accept"), ("application/json", *image_offers(line)))
        with line.admission.enter():
            layout = buffer_layout(active, buffer)
            upload = await receive_upload(request, line.settings.body_timeout_s)
            row = await line.inspect(product, upload.image, part_record(request, part, upload.fields), layout)
            if wanted == "application/json":
                content = inspection_answer(row).model_dump_json().encode()
            else:
                content = await line.draw(row, wanted)
    except (QueueFull, DeadlineExceeded, ShuttingDown, StoreUnavailable) as error:
        line.metrics.shed.labels(error.slug.replace("-", "_")).inc()
        raise
    return Response(content, 201, {"Location": f"/v1/inspections/{row.id}", **verdict_headers(row)}, wanted)


@router.get(
    "/v1/inspections",
    operation_id="list_inspections",
    summary="List inspections",
    responses=problem_responses(InvalidRequest, StoreUnavailable),
)
def list_stored(
    line: LineDep,
    product: Annotated[Label | None, Query(description="Only of this product.")] = None,
    decision: Annotated[Literal["pass", "review", "fail", "invalid"] | None, Query(description="Only these.")] = None,
    part_id: Annotated[Label | None, Query(description="Only of this part.")] = None,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Most inspections on a page.")] = 50,
) -> InspectionPage:
    """Stored inspections, newest first, a page at a time."""
    which = InspectionFilter(product=product, decision=decision, part_id=part_id)
    # One more than asked for tells whether there is a next page.
    rows = list_inspections(line.store.engine, which, before=cursor, limit=limit + 1)
    more = len(rows) > limit
    return InspectionPage(
        items=[inspection_answer(row) for row in rows[:limit]], next_cursor=rows[limit - 1].id if more else None
    )


@router.get(
    "/v1/inspections/{inspection_id}",
    operation_id="get_inspection",
    summary="Read an inspection",
    responses=problem_responses(*_ID_ERRORS),
)
def read_inspection(inspection_id: InspectionPath, line: LineDep) -> Inspection:
    """The stored verdict."""
    return inspection_answer(get_inspection(line.store.engine, parse_id(inspection_id)))


@router.get(
    "/v1/inspections/{inspection_id}/heatmap",
    operation_id="get_heatmap",
    summary="Draw the heatmap",
    response_class=Response,
    responses={
        200: binary_response(
            "The image under its anomaly map, on the product's fixed scale.",
            tuple(HEATMAP_MEDIA_TYPES),
            headers=_VERDICT_HEADERS,
        ),
        **problem_responses(*_ID_ERRORS, ArtefactGone, NotAcceptable, QueueFull),
    },
)
async def read_heatmap(
    request: Request,
    inspection_id: InspectionPath,
    line: LineDep,
    format: Annotated[  # noqa: A002 - the parameter's public name
        Literal["png", "jpeg", "webp"] | None, Query(description="Wins over the Accept header.")
    ] = None,
) -> Response:
    """The heatmap: no colour at the median of good maps, yellow at the fail threshold that was in force, red beyond.
    What was not judged is dimmed and hatched. Of an invalid image, the image alone.
    """
    row = await _find(line, inspection_id)
    wanted = f"image/{format}" if format else negotiate(request.headers.get("accept"), image_offers(line))
    # The answer depends on the Accept header, which caches must know.
    headers = {"Vary": "Accept", **verdict_headers(row)}
    with line.drawing.enter():
        content = await line.draw(row, wanted)
    return Response(content, headers=headers, media_type=wanted)


@router.get(
    "/v1/inspections/{inspection_id}/map",
    operation_id="get_map",
    summary="Read the anomaly map",
    response_class=Response,
    responses={
        200: binary_response("NumPy file, float32 [height, width].", (_NPY,)),
        **problem_responses(*_ID_ERRORS, NotJudged, ArtefactGone),
    },
)
async def read_map(inspection_id: InspectionPath, line: LineDep) -> Response:
    """The raw anomaly map, as numbers."""
    row = await _find(line, inspection_id)
    headers = {"Content-Disposition": f'attachment; filename="{row.id}.npy"'}
    return Response(await line.read_map(row), headers=headers, media_type=_NPY)


@router.get(
    "/v1/inspections/{inspection_id}/image",
    operation_id="get_image",
    summary="Read the image",
    response_class=Response,
    responses={
        200: binary_response(
            "The image, byte by byte as it was sent; a camera buffer with its layout in the headers.",
            RAW_MEDIA_TYPES,
            headers=_BUFFER_HEADERS,
        ),
        **problem_responses(*_ID_ERRORS, ArtefactGone, QueueFull),
    },
)
async def read_image(
    inspection_id: InspectionPath,
    line: LineDep,
    format: Annotated[  # noqa: A002 - the parameter's public name
        Literal["png"] | None,
        Query(description="Instead of the bytes that were sent, the 8-bit RGB image that was made of them."),
    ] = None,
) -> Response:
    """The image that was judged. A camera buffer can be looked at, and trained from, with `format=png`."""
    row = await _find(line, inspection_id)
    if format is not None:
        with line.drawing.enter():
            return Response(await line.show_image(row), media_type="image/png")
    # The type was sniffed, so it is true; still no browser should think again about what a client sent.
    headers = {"X-Content-Type-Options": "nosniff", **layout_headers(PixelRules.from_stored(row.image_pixels))}
    return Response(await line.read_image(row), headers=headers, media_type=row.image_media_type)


def image_offers(line: InspectionLine) -> tuple[str, ...]:
    """Heatmap formats, the configured one first."""
    return tuple(dict.fromkeys((line.settings.heatmap_media_type, *HEATMAP_MEDIA_TYPES)))


def buffer_layout(active: ActiveProduct, buffer: BufferHeaders) -> RawLayout | None:
    """The layout of the camera buffer that a request carries, None where it carries an encoded image.

    Raises:
        UnknownPixelFormat, PixelMismatch, InvalidRequest: As `PixelSetting.layout`.
    """
    return active.recipe.recipe.pixels.layout(buffer.x_pixel_format, buffer.x_width, buffer.x_height, buffer.x_stride)


def layout_headers(rules: PixelRules) -> dict[str, str]:
    """The headers that a camera buffer is sent with."""
    layout = rules.layout
    if layout is None:
        return {}
    stated = {"X-Pixel-Format": layout.pixel_format, "X-Width": layout.width, "X-Height": layout.height}
    return {name: str(value) for name, value in stated.items()} | (
        {} if layout.stride is None else {"X-Stride": str(layout.stride)}
    )


def part_record(request: Request, part: PartFields, fields: Mapping[str, str] | None = None) -> PartRecord:
    """What the sender says about the part, in the query or in the form.

    Raises:
        InvalidRequest: A form field is unknown or not valid.
    """
    if fields:
        try:
            given = part.model_dump(exclude_none=True) | dict(fields)
            part = PartFields.model_validate(given)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False, include_context=False)
            what = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in errors)
            raise InvalidRequest(f"A form field is not valid: {what}.", [dict(item) for item in errors]) from error
    return PartRecord(
        part_id=part.part_id,
        station=part.station,
        lot=part.lot,
        captured_at=part.captured_at,
        request_id=request_id(request.scope),
        traceparent=request.scope.get(TRACEPARENT),
    )


def verdict_headers(row: InspectionRecord) -> dict[str, str]:
    reasons = dict.fromkeys(objection["reason"] for objection in row.objections or [])
    values = {
        "X-Plumbline-Id": row.id,
        "X-Plumbline-Product": row.product,
        "X-Plumbline-Decision": row.decision,
        "X-Plumbline-Decision-By-Score": row.by_score or row.decision,
        "X-Plumbline-Score": None if row.score is None else repr(row.score),
        "X-Plumbline-P-Value": None if row.p_value is None else repr(row.p_value),
        "X-Plumbline-Invalid-Reasons": ",".join(reasons) or None,
        "X-Plumbline-Fail-Threshold": repr(row.fail_threshold),
        "X-Plumbline-Review-Threshold": repr(row.review_threshold),
        "X-Plumbline-Bundle": row.bundle_digest,
        "X-Plumbline-Recipe-Revision": str(row.recipe_revision),
    }
    return {name: value for name, value in values.items() if value is not None}


async def _find(line: InspectionLine, inspection_id: str) -> InspectionRecord:
    return await line.find(parse_id(inspection_id))
