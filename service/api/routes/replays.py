"""Replaying verdicts over HTTP."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from service.api.answers import replay_answer
from service.api.deps import InspectionPath, LineDep, ReplayTurnDep
from service.api.http.problems import problem_responses
from service.bundle.errors import BundleIntegrity, BundleInvalid, BundleSchema, ParityFailure
from service.deployment.errors import ReplayBusy, UnknownBundle
from service.deployment.replay import Replay, Replayer
from service.errors import InvalidRequest
from service.inspection.errors import ProviderUnavailable, ScoreNotFinite
from service.inspection.runtime.threads import run_in_background
from service.schemas.bundle import ReplayRecord
from service.store.errors import ArtefactGone, NotJudged, StoreUnavailable, UnknownInspection, UnknownRevision
from service.store.ids import parse_id

router = APIRouter(tags=["inspections"])


@router.post(
    "/v1/inspections/{inspection_id}:replay",
    operation_id="replay_inspection",
    summary="Replay a verdict",
    responses=problem_responses(
        UnknownInspection, UnknownBundle, UnknownRevision, InvalidRequest, ArtefactGone, NotJudged, BundleInvalid,
        BundleIntegrity, BundleSchema, ParityFailure, ScoreNotFinite, ProviderUnavailable, ReplayBusy, StoreUnavailable,
    ),
)  # fmt: skip
async def replay_inspection(inspection_id: InspectionPath, line: LineDep, turn: ReplayTurnDep) -> ReplayRecord:
    """Decide the stored image again, with the bundle and the recipe revision that the inspection names, whatever is
    active now. Nothing is changed or stored.

    The bundle is loaded for this and unloaded again, on threads that give way to the line. `plumbline replay` does the
    same for many inspections, also without a running service.
    """
    row = await line.find(parse_id(inspection_id))

    def replay() -> Replay:
        registry = line.registry
        with Replayer(registry.models, line.store, registry.options) as replayer:
            return replayer.replay(row)

    if turn.locked():
        raise ReplayBusy
    async with turn:
        return replay_answer(row, await run_in_threadpool(run_in_background, replay))
