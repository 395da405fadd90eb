"""Replay of stored inspections."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.deps import InspectionsDep, ReplaysDep
from service.api.http.access import requires
from service.api.http.problems import problem_responses
from service.api.mapping import to_replay_record
from service.api.parameters import InspectionPath
from service.bundle.errors import BundleIntegrity, BundleInvalid, BundleSchema, ParityFailure
from service.deployment.errors import ReplayBusy, UnknownBundle
from service.errors import InvalidRequest
from service.inspection.errors import ProviderUnavailable, ScoreNotFinite
from service.schemas.bundle import ReplayRecord
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


@router.post(
    "/v1/inspections/{inspection_id}:replay",
    operation_id="replay_inspection",
    summary="Replay an inspection",
    responses=problem_responses(
        UnknownInspection, InspectionRemoved, UnknownBundle, UnknownRevision, InvalidRequest, ArtefactGone, NotJudged,
        BundleInvalid, BundleIntegrity, BundleSchema, ParityFailure, ScoreNotFinite, ProviderUnavailable, ReplayBusy,
        BundleRemoved, StoreUnavailable, StoredImageUnreadable, BundleStoreUnavailable,
    ),
)  # fmt: skip
@requires("engineer")
async def replay_inspection(
    inspection_id: InspectionPath, inspections: InspectionsDep, replays: ReplaysDep
) -> ReplayRecord:
    """Judge the stored image again with the bundle and the recipe revision that the inspection names.

    It does not matter which bundle and recipe are active now. Nothing is changed or stored.

    The bundle is loaded for the replay and unloaded afterwards, on threads with a lower priority than inspections.
    `plumbline replay` replays many inspections, also while the service is not running.
    """
    record = await inspections.find(inspection_id)
    return to_replay_record(record, await replays.replay(record))
