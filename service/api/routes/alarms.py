"""Alarms: what is abnormal now."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service.access.restrictions import require_product
from service.api.deps import AlarmsDep, PrincipalDep
from service.api.http.access import requires
from service.api.http.problems import problem_responses
from service.api.http.server_paths import hide_paths, hide_paths_in
from service.errors import InvalidRequest
from service.schemas.alarm import AlarmList, AlarmRecord
from service.schemas.common import Label
from service.serving.alarm_texts import TEXTS, values_of
from service.serving.alarms import Alarm

router = APIRouter(tags=["operation"])


@router.get(
    "/v1/alarms", operation_id="list_alarms", summary="List alarms", responses=problem_responses(InvalidRequest)
)
@requires("inspect", filters=True)
async def list_alarms(
    alarms: AlarmsDep,
    principal: PrincipalDep,
    product: Annotated[Label | None, Query(description="Leave out alarms of other products.")] = None,
    station: Annotated[Label | None, Query(description="Leave out alarms of other stations.")] = None,
) -> AlarmList:
    """Return what is abnormal now and what to do about it, the most severe first.

    Everything is examined about once per second, disks and sinks every 10 seconds. A restricted key sees the alarms of
    what it permits, and those that concern every client.
    """
    if product is not None:
        require_product(principal, product)
    return AlarmList(items=[_to_record(alarm) for alarm in alarms.current(principal, product, station)])


def _to_record(alarm: Alarm) -> AlarmRecord:
    texts = TEXTS[alarm.kind]
    return AlarmRecord(
        kind=alarm.kind,
        severity=alarm.severity,
        product=alarm.product,
        station=alarm.station,
        since=alarm.since,
        text=hide_paths(texts.text % values_of(alarm)),
        action=texts.action,
        values=hide_paths_in(dict(alarm.values)),
    )
