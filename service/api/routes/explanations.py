"""Explanations of stored decisions."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request

from service.api.deps import ClientDep, ExplanationsDep, InspectionsDep
from service.api.explanation_mapping import to_why
from service.api.http.access import requires
from service.api.http.clients import wait_for_disconnect
from service.api.http.problems import problem_responses
from service.api.parameters import InspectionPath
from service.bundle.errors import BundleIntegrity, BundleInvalid, BundleSchema, ParityFailure
from service.deployment.errors import UnknownBundle
from service.errors import DeadlineExceeded, InvalidRequest, QueueFull, ShuttingDown
from service.inspection.errors import ExplanationDiffers, NoExplanation, ProviderUnavailable
from service.schemas.explanation import WhyRecord
from service.store.bundles.errors import BundleRemoved
from service.store.errors import (
    ArtefactGone,
    BundleStoreUnavailable,
    NotJudged,
    StoredImageUnreadable,
    StoreUnavailable,
    UnknownInspection,
    UnknownRevision,
)
from service.store.record_removal.errors import InspectionRemoved

router = APIRouter(tags=["inspections"])
_MAX_SIDE = 2**24


@router.get(
    "/v1/inspections/{inspection_id}/why",
    operation_id="explain_inspection",
    summary="Explain a decision",
    responses=problem_responses(
        UnknownInspection, InspectionRemoved, InvalidRequest, StoreUnavailable, ArtefactGone, StoredImageUnreadable,
        NotJudged, NoExplanation, ExplanationDiffers, UnknownBundle, UnknownRevision, BundleInvalid, BundleIntegrity,
        BundleSchema, ParityFailure, ProviderUnavailable, QueueFull, DeadlineExceeded, ShuttingDown,
        BundleStoreUnavailable, BundleRemoved,
    ),
)  # fmt: skip
@requires("inspect")
async def explain_inspection(
    request: Request,
    inspection_id: InspectionPath,
    inspections: InspectionsDep,
    explanations: ExplanationsDep,
    client: ClientDep,
    x: Annotated[
        int | None, Query(ge=0, le=_MAX_SIDE, description="Column of a pixel of the image; needs `y` as well.")
    ] = None,
    y: Annotated[int | None, Query(ge=0, le=_MAX_SIDE, description="Row of the pixel.")] = None,
) -> WhyRecord:
    """Return why a spot of an inspected image is unusual, and the nearest normal spots that the bundle knows.

    The spot is the pixel `x`, `y`, by default the highest value of the judged area. The response has what each of the
    maps that the method adds up contributes to the value there; and, for each memory bank, the distance to the nearest
    prototype, and the good image and place that the prototype comes from, as two patches of the same scale.

    The map is computed again from the stored image with the bundle that decided the inspection, at lower priority than
    inspections, and must equal the stored map within the tolerance of the bundle's parity certificate. Bundles that
    were trained before explanations were stored return 409 (`no-explanation`).
    """
    if (x is None) != (y is None):
        raise InvalidRequest("A pixel needs both x and y. Give both, or none for the highest value of the map.")
    record = await inspections.find(inspection_id)
    point = None if x is None or y is None else (x, y)
    disconnected = partial(wait_for_disconnect, request.receive)
    return to_why(await explanations.explain(record, point, client, disconnected))
