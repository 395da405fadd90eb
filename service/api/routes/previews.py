"""Previews of stored inspections, for pages."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.deps import ClientDep, InspectionsDep, PreviewsDep
from service.api.http.access import requires
from service.api.http.clients import wait_for_disconnect
from service.api.http.conditional import is_unchanged
from service.api.http.head import headers_only, is_head
from service.api.http.problems import problem_responses
from service.api.parameters import InspectionPath
from service.api.responses import binary_response
from service.errors import DeadlineExceeded, InvalidRequest, QueueFull
from service.schemas.inspection import PreviewLayer
from service.serving.previews import MEDIA_TYPES
from service.store.errors import ArtefactGone, StoredImageUnreadable, StoreUnavailable, UnknownInspection
from service.store.record_removal.errors import InspectionRemoved

router = APIRouter(tags=["inspections"])

_ETAG = {"ETag": {"description": "Send it as `If-None-Match` to receive 304.", "schema": {"type": "string"}}}
_KEPT = "private, max-age=86400, immutable"


@router.get(
    "/v1/inspections/{inspection_id}/preview",
    operation_id="get_preview",
    summary="Get a preview",
    response_class=Response,
    responses={
        200: binary_response(
            "The image as JPEG, or the heatmap alone as PNG with transparency.",
            tuple(MEDIA_TYPES.values()),
            headers=_ETAG,
        ),
        304: {"description": "The client has this preview already."},
        **problem_responses(
            UnknownInspection,
            InspectionRemoved,
            InvalidRequest,
            StoreUnavailable,
            ArtefactGone,
            StoredImageUnreadable,
            QueueFull,
            DeadlineExceeded,
        ),
    },
)
@requires("inspect")
async def read_preview(
    request: Request,
    inspection_id: InspectionPath,
    inspections: InspectionsDep,
    previews: PreviewsDep,
    client: ClientDep,
    layer: Annotated[
        PreviewLayer, Query(description="`image`: the image. `overlay`: the heatmap alone, of the same size.")
    ] = "image",
    max_side: Annotated[
        int, Query(ge=64, le=2048, description="Longest side in pixels. A smaller image is not enlarged.")
    ] = 1024,
) -> Response:
    """Return the image of an inspection at a limited size, or the heatmap alone as a layer to show above it.

    The layer is on the product's fixed scale: transparent at the median of good maps, opaque at the fail threshold and
    above. Shown with an opacity of 0.6, it has the colours of `/heatmap`. It has the contour of the fail threshold, and
    areas that were not judged are dimmed and hatched; regions are in the inspection. For an invalid image it is
    transparent. Previews are drawn at low priority, and kept in memory (PLUMBLINE_PREVIEW_CACHE_BYTES).
    """
    record = await inspections.find(inspection_id)
    media_type = MEDIA_TYPES[layer]
    tag = previews.tag(record, layer, max_side)
    headers = {"Cache-Control": _KEPT, "ETag": tag}
    if is_unchanged(request.headers, tag):
        await previews.require_stored(record)
        return Response(status_code=304, headers=headers)
    if is_head(request.scope):
        await previews.require_stored(record)
        return headers_only(headers, media_type)
    disconnected = partial(wait_for_disconnect, request.receive)
    content = await previews.get(record, layer, max_side, client, disconnected)
    return Response(content, headers=headers, media_type=media_type)
