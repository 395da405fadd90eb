"""Inspections: send an image, receive the decision, read it again later."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from service.api.deps import ArtefactsDep, ClientDep, InspectionsDep, PrincipalDep, ReviewsDep
from service.api.http.access import requires
from service.api.http.bodies import RAW_MEDIA_TYPES, receive_upload
from service.api.http.body_limit import IMAGE, limit_body
from service.api.http.clients import wait_for_disconnect
from service.api.http.errors import NotAcceptable
from service.api.http.file_response import FileResponse
from service.api.http.forms import IMAGE_FIELD, MULTIPART
from service.api.http.head import headers_only, is_head
from service.api.http.middleware import ARRIVED
from service.api.http.negotiation import negotiate
from service.api.http.problems import problem_responses
from service.api.mapping import to_inspection
from service.api.parameters import IdempotencyHeader, InspectionPath, ProductPath, inspection_filter, part_record
from service.api.responses import (
    BINARY,
    BUFFER_HEADERS,
    INSPECT_ERRORS,
    VERDICT_HEADERS,
    binary_response,
    layout_headers,
    location_header,
    verdict_headers,
)
from service.deployment.errors import UnknownProduct
from service.errors import DeadlineExceeded, InvalidRequest, QueueFull
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.heatmap import HEATMAP_MEDIA_TYPES
from service.schemas.common import BufferHeaders, PartFields
from service.schemas.inspection import Inspection, InspectionPage
from service.schemas.records import ListQuery
from service.serving.image import Image, RequestKey, StatedBuffer
from service.store.errors import (
    ArtefactGone,
    IdempotencyKeyUsed,
    NotJudged,
    StoredImageUnreadable,
    StoreUnavailable,
    UnknownInspection,
)
from service.store.record_removal.errors import InspectionRemoved

router = APIRouter(tags=["inspections"])

_JSON = "application/json"
_NPY = "application/x-npy"
REPLAYED = "Idempotency-Replayed"
REPLAYED_HEADER = {
    REPLAYED: {
        "description": "`true` if an earlier request with the same `Idempotency-Key` made the inspection.",
        "schema": {"type": "string"},
    }
}
_ID_ERRORS = (UnknownInspection, InspectionRemoved, InvalidRequest, StoreUnavailable)
_DRAWING_ERRORS = (ArtefactGone, StoredImageUnreadable, QueueFull, DeadlineExceeded)
_FORM = {
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


@router.post(
    "/v1/products/{product}/inspections",
    operation_id="inspect",
    summary="Inspect an image",
    status_code=201,
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The encoded image; or, with the headers `X-Pixel-Format`, `X-Width` and `X-Height`, a "
            "camera buffer as `application/octet-stream`; or a form with either of them in the field `image`.",
            "content": {name: {"schema": BINARY} for name in RAW_MEDIA_TYPES} | {MULTIPART: {"schema": _FORM}},
        }
    },
    responses={
        201: {
            "description": "The stored inspection, as JSON or as the heatmap with the decision in the headers.",
            "model": Inspection,
            "content": {name: {"schema": BINARY} for name in HEATMAP_MEDIA_TYPES},
            "headers": location_header("the stored inspection") | VERDICT_HEADERS | REPLAYED_HEADER,
        },
        **problem_responses(NotAcceptable, IdempotencyKeyUsed, *INSPECT_ERRORS),
    },
)
@limit_body(IMAGE)
@requires("inspect")
async def inspect(
    request: Request,
    product: ProductPath,
    part: Annotated[PartFields, Query()],
    buffer: Annotated[BufferHeaders, Header()],
    inspections: InspectionsDep,
    artefacts: ArtefactsDep,
    client: ClientDep,
    principal: PrincipalDep,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Inspect one image and return the stored inspection.

    The decision is `pass`, `review` or `fail`, or `invalid` if the quality check rejects the image because it is too
    dark, too bright, blurred, empty, of the wrong size, or identical to the images before it. The inspection is stored
    before the response is sent.

    The image is the request's body or the field `image` of a form. The other form fields have the names of the query
    parameters and override them. The image is an encoded image or, if one of the headers `X-Pixel-Format`, `X-Width`,
    `X-Height`, `X-Stride` is present, a little-endian camera buffer; missing values are taken from the recipe.

    With `Accept: image/png`, `image/jpeg` or `image/webp` the response is the heatmap drawn over the image, and the
    `X-Plumbline-*` headers contain the decision. If the client disconnects while its image waits in the queue, the
    image is not inspected; if it disconnects later, the inspection is stored nevertheless.

    A request with the header `Idempotency-Key` that is sent again returns the inspection of the first one, with the
    header `Idempotency-Replayed: true`, also after a crash of the service. Use a new key for every image. Keys are
    remembered for PLUMBLINE_IDEMPOTENCY_HOURS.
    """
    await inspections.require_ready(product)
    media_type = negotiate(request.headers.get("accept"), (_JSON, *artefacts.heatmap_media_types))
    with inspections.accept(client):
        stated = StatedBuffer(buffer.x_pixel_format, buffer.x_width, buffer.x_height, buffer.x_stride)
        inspections.require_usable(product, stated)
        upload = await receive_upload(request)
        key = None if idempotency_key is None else RequestKey(principal.id, idempotency_key)
        arrived = request.scope.get(ARRIVED)
        image = Image(upload.image, part_record(request, part, upload.fields), stated, key, arrived=arrived)
        async with inspections.turn(product, client, partial(wait_for_disconnect, request.receive)) as turn:
            inspected = await inspections.inspect_once(product, image, turn)
            record = inspected.record
            if media_type == _JSON:
                content = to_inspection(record).model_dump_json().encode()
            else:
                content = await artefacts.draw_admitted(record, media_type)
    headers = {"Location": f"/v1/inspections/{record.id}", **verdict_headers(record)}
    if inspected.is_replayed:
        headers[REPLAYED] = "true"
    return Response(content, 201, headers, media_type)


@router.get(
    "/v1/inspections",
    operation_id="list_inspections",
    summary="List inspections",
    responses=problem_responses(UnknownProduct, InvalidRequest, StoreUnavailable),
)
@requires("inspect", filters=True)
def list_inspections(
    query: Annotated[ListQuery, Query()], inspections: InspectionsDep, principal: PrincipalDep, reviews: ReviewsDep
) -> InspectionPage:
    """Return stored inspections page by page, newest first. A restricted key sees those that it permits.

    A product that was removed from the model repository is still listed if inspections of it are stored.
    """
    page = inspections.search(inspection_filter(query, principal), query.cursor, query.limit)
    labels = {name: found.label for name, found in reviews.labels([record.id for record in page.items]).items()}
    items = [to_inspection(record, labels.get(record.id)) for record in page.items]
    return InspectionPage(items=items, next_cursor=page.next_cursor)


@router.get(
    "/v1/inspections/{inspection_id:identifier}",
    operation_id="get_inspection",
    summary="Get an inspection",
    responses=problem_responses(*_ID_ERRORS),
)
@requires("inspect")
def read_inspection(inspection_id: InspectionPath, inspections: InspectionsDep, reviews: ReviewsDep) -> Inspection:
    """Return a stored inspection."""
    record = inspections.get(inspection_id)
    label = reviews.labels([record.id]).get(record.id)
    return to_inspection(record, None if label is None else label.label)


@router.get(
    "/v1/inspections/{inspection_id}/heatmap",
    operation_id="get_heatmap",
    summary="Get the heatmap",
    response_class=Response,
    responses={
        200: binary_response(
            "The anomaly map drawn over the image, on the product's fixed scale.",
            tuple(HEATMAP_MEDIA_TYPES),
            headers=VERDICT_HEADERS,
        ),
        **problem_responses(*_ID_ERRORS, *_DRAWING_ERRORS, NotAcceptable),
    },
)
@requires("inspect")
async def read_heatmap(
    request: Request,
    inspection_id: InspectionPath,
    inspections: InspectionsDep,
    artefacts: ArtefactsDep,
    client: ClientDep,
    format: Annotated[  # noqa: A002 - the public name of the parameter
        Literal["png", "jpeg", "webp"] | None, Query(description="Image format; overrides the Accept header.")
    ] = None,
    legend: Annotated[
        bool, Query(description="Draw decision, score, thresholds and colour scale below the image.")
    ] = False,
) -> Response:
    """Return the heatmap of an inspection, drawn over its image.

    It is transparent at the median of good maps. The colour changes at the fail threshold that was in force, whose
    contour is drawn as a white line with a black border. Areas that were not judged are dimmed and hatched. For an
    invalid image, the image without an overlay is returned.
    """
    record = await inspections.find(inspection_id)
    accept = request.headers.get("accept")
    media_type = f"image/{format}" if format else negotiate(accept, artefacts.heatmap_media_types)
    # The response depends on the Accept header, which caches must take into account.
    headers = {"Vary": "Accept", **verdict_headers(record)}
    if is_head(request.scope):
        await artefacts.require_stored(record)
        return headers_only(headers, media_type)
    disconnected = partial(wait_for_disconnect, request.receive)
    content = await artefacts.draw_heatmap(record, media_type, client, disconnected, legend=legend)
    return Response(content, headers=headers, media_type=media_type)


@router.get(
    "/v1/inspections/{inspection_id}/map",
    operation_id="get_map",
    summary="Get the anomaly map",
    response_class=Response,
    responses={
        200: binary_response("NumPy file, float32 [height, width].", (_NPY,)),
        **problem_responses(*_ID_ERRORS, NotJudged, ArtefactGone),
    },
)
@requires("inspect")
async def read_map(
    request: Request, inspection_id: InspectionPath, inspections: InspectionsDep, artefacts: ArtefactsDep
) -> Response:
    """Return the raw anomaly map as a NumPy file."""
    record = await inspections.find(inspection_id)
    headers = {"Content-Disposition": f'attachment; filename="{record.id}.npy"'}
    file = await artefacts.map_file(record, with_content=not is_head(request.scope))
    return FileResponse(file, artefacts.read_piece, headers, _NPY)


@router.get(
    "/v1/inspections/{inspection_id}/image",
    operation_id="get_image",
    summary="Get the image",
    response_class=Response,
    responses={
        200: binary_response(
            "The image as it was sent, byte for byte; the layout of a camera buffer is in the headers.",
            RAW_MEDIA_TYPES,
            headers=BUFFER_HEADERS,
        ),
        **problem_responses(*_ID_ERRORS, *_DRAWING_ERRORS),
    },
)
@requires("inspect")
async def read_image(
    request: Request,
    inspection_id: InspectionPath,
    inspections: InspectionsDep,
    artefacts: ArtefactsDep,
    client: ClientDep,
    format: Annotated[  # noqa: A002 - the public name of the parameter
        Literal["png"] | None,
        Query(description="Return the decoded 8-bit RGB image in this format instead of the bytes that were sent."),
    ] = None,
) -> Response:
    """Return the image that was judged. With `format=png` a camera buffer is converted for viewers and for training."""
    record = await inspections.find(inspection_id)
    if format is not None and is_head(request.scope):
        await artefacts.image_file(record, with_content=False)
        return headers_only({}, "image/png")
    if format is not None:
        disconnected = partial(wait_for_disconnect, request.receive)
        return Response(await artefacts.convert_image(record, client, disconnected), media_type="image/png")
    # The media type was determined from the data; browsers must not guess another one.
    headers = {"X-Content-Type-Options": "nosniff", **layout_headers(PixelRules.from_stored(record.image_pixels))}
    file = await artefacts.image_file(record, with_content=not is_head(request.scope))
    return FileResponse(file, artefacts.read_piece, headers, record.image_media_type)
