"""The state of the service for people who operate it."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.deps import OutboxDep, SystemDep
from service.api.http.access import requires
from service.api.http.problems import problem_responses
from service.api.system_mapping import read_system
from service.schemas.system import SystemState

router = APIRouter(tags=["operation"])


@router.get(
    "/v1/system", operation_id="get_system", summary="Get the state of the service", responses=problem_responses()
)
@requires("engineer")
def get_system(system: SystemDep, outbox: OutboxDep) -> SystemState:
    """Return readiness, products, queue, throughput, latency, memory, disk, sinks, errors and changed settings.

    The facts are those of the process that responds. For monitoring, use `/metrics`.
    """
    return read_system(system, outbox)
