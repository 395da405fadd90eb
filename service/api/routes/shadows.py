"""Heatmaps of shadow bundles."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.deps import ClientDep, InspectionsDep, ShadowHeatmapsDep
from service.api.http.access import requires
from service.api.http.clients import wait_for_disconnect
from service.api.http.problems import problem_responses
from service.api.parameters import InspectionPath
from service.api.responses import binary_response
from service.deployment.errors import ShadowNotLoaded
from service.errors import DeadlineExceeded, InvalidRequest, QueueFull, ShuttingDown
from service.inspection.errors import AreaMismatch, ScoreNotFinite
from service.inspection.heatmap.layer import LAYER_MEDIA_TYPE
from service.schemas.common import LABEL_PATTERN
from service.store.errors import ArtefactGone, NotJudged, StoredImageUnreadable, StoreUnavailable, UnknownInspection
from service.store.record_removal.errors import InspectionRemoved

router = APIRouter(tags=["bundles"])


@router.get(
    "/v1/inspections/{inspection_id}/shadow-heatmap",
    operation_id="get_shadow_heatmap",
    summary="Get the heatmap of the shadow bundle",
    response_class=Response,
    responses={
        200: binary_response(
            "The heatmap alone as PNG with transparency, on the scale of the shadow bundle.", (LAYER_MEDIA_TYPE,)
        ),
        **problem_responses(
            UnknownInspection, InspectionRemoved, InvalidRequest, NotJudged, ShadowNotLoaded, ArtefactGone,
            StoredImageUnreadable, AreaMismatch, ScoreNotFinite, QueueFull, DeadlineExceeded, ShuttingDown,
            StoreUnavailable,
        ),
    },
)  # fmt: skip
@requires("inspect")
async def read_shadow_heatmap(
    request: Request,
    inspection_id: InspectionPath,
    inspections: InspectionsDep,
    heatmaps: ShadowHeatmapsDep,
    client: ClientDep,
    version: Annotated[
        str | None,
        Query(max_length=12, pattern=LABEL_PATTERN, description="The bundle; by default the shadow that is loaded."),
    ] = None,
    max_side: Annotated[
        int, Query(ge=64, le=2048, description="Longest side in pixels. A smaller image is not enlarged.")
    ] = 1024,
) -> Response:
    """Judge the image of an inspection with the shadow bundle, and return the heatmap as a layer to show above it.

    The layer has the size and the form of `/preview?layer=overlay`.

    The maps of a shadow bundle are not stored. So the bundle must be the product's shadow now; the image is judged
    again, at lower priority than inspections.
    """
    record = await inspections.find(inspection_id)
    disconnected = partial(wait_for_disconnect, request.receive)
    content = await heatmaps.draw(record, version, max_side, client, disconnected)
    return Response(content, media_type=LAYER_MEDIA_TYPE)
