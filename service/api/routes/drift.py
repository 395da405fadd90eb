"""Drift of products: what is monitored, its alarms, and their acknowledgement."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.deps import ActorDep, DriftDep, PrincipalDep
from service.api.http.access import requires
from service.api.http.problems import problem_responses
from service.api.mapping import suspension_for
from service.api.parameters import ProductPath
from service.deployment.errors import UnknownProduct
from service.errors import InvalidRequest
from service.schemas.drift import DriftAcknowledgement, DriftReport
from service.store.errors import NoOpenDriftAlarm, StoreUnavailable

router = APIRouter(prefix="/v1/products", tags=["drift"])


@router.get(
    "/{product}/drift",
    operation_id="get_drift",
    summary="Get the drift of a product",
    responses=problem_responses(UnknownProduct, InvalidRequest, StoreUnavailable),
)
@requires("inspect")
def read_drift(product: ProductPath, drift: DriftDep, principal: PrincipalDep) -> DriftReport:
    """Return whether inspections differ from what the guarantee was derived from, with the evidence over time.

    Each kind of drift is monitored for the product as a whole and for each of its stations. When the evidence of a
    stream reaches its limit, an alarm is raised. Most alarms suspend the guarantee, until they are acknowledged or
    another recipe or bundle is put in force. A key that is restricted to stations sees these stations only.
    """
    report = drift.report(product)
    if (permitted := principal.stations) is None:
        return report
    return report.model_copy(
        update={
            "suspension": suspension_for(report.suspension, permitted),
            "streams": [stream for stream in report.streams if stream.station in permitted],
            "alarms": [alarm for alarm in report.alarms if alarm.station in permitted],
        }
    )


@router.post(
    "/{product}/drift:acknowledge",
    operation_id="acknowledge_drift",
    summary="Acknowledge the drift alarms of a product",
    responses=problem_responses(UnknownProduct, InvalidRequest, NoOpenDriftAlarm, StoreUnavailable),
)
@requires("engineer")
def acknowledge_drift(
    product: ProductPath,
    acknowledgement: DriftAcknowledgement,
    drift: DriftDep,
    actor: ActorDep,
) -> DriftReport:
    """Acknowledge all open alarms of a product, with the reason. The guarantee is no longer suspended.

    The streams of the alarms start anew. If the change persists, they raise an alarm again: then recalibrate, with a
    proposal from new good images or a new bundle.
    """
    drift.acknowledge(product, actor.signed(acknowledgement.author), acknowledgement.reason)
    return drift.report(product)
