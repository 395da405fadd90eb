"""Health probes, metrics and the index."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from starlette.responses import Response

from service.api.deps import AccessDep, MetricsDep, ReadinessDep
from service.api.http.access import is_local, requires
from service.api.http.problems import problem_responses
from service.api.http.server_paths import hide_paths
from service.api.mapping import to_bundle_problem
from service.schemas.product import Liveness, Readiness
from service.version import VERSION

router = APIRouter(tags=["operation"])


@router.get("/health/live", operation_id="live", summary="Liveness probe", responses=problem_responses())
@requires(None)
async def live() -> Liveness:
    """Return 200 while the event loop runs. It depends on nothing else."""
    return Liveness()


@router.get(
    "/health/ready",
    operation_id="ready",
    summary="Readiness probe",
    response_model=Readiness,
    responses={
        **problem_responses(),
        503: {"description": "Not ready; `reasons` explains why.", "model": Readiness},
    },
)
@requires(None)
async def ready(request: Request, check: ReadinessDep, access: AccessDep) -> Response:
    """Return 200 if products are loaded on the requested execution provider and the service is not stopping.

    If some bundles are broken and others are served, the status is `degraded` with 200. List the products that must be
    served in PLUMBLINE_REQUIRED_PRODUCTS to get 503 instead.

    If requests need a key, only this machine receives the reasons, products and versions; other machines receive the
    status. `GET /v1/products` describes the products, with a key.
    """
    report = check()
    body = Readiness(
        status=report.status,
        access="required" if access.is_required else "insecure" if access.is_insecure else "local",
    )
    if not access.is_required or is_local(request.scope):
        body = body.model_copy(
            update={
                "reasons": list(map(hide_paths, report.reasons)),
                "products": list(report.products),
                "broken_bundles": [to_bundle_problem(broken) for broken in report.broken_bundles],
                "version": VERSION,
            }
        )
    return Response(body.model_dump_json(), 200 if report.is_ready else 503, media_type="application/json")


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **problem_responses(),
    },
)
@requires("inspect", unless="are_metrics_open")
def metrics(metrics: MetricsDep) -> Response:
    """Return all metrics in the Prometheus text format."""
    return Response(metrics.expose(), headers={"Content-Type": CONTENT_TYPE_PLAIN_1_0_0})


@router.get("/", operation_id="index", summary="Index", responses=problem_responses())
@requires(None)
async def index() -> dict[str, str]:
    """Return the main URLs of the service."""
    return {
        "service": "plumbline",
        "version": VERSION,
        "products": "/v1/products",
        "ready": "/health/ready",
        "metrics": "/metrics",
        "openapi": "/openapi.json",
        "docs": "/docs",
    }
