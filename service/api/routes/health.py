"""Probes, metrics and the front door."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from starlette.responses import Response

from service.api.answers import broken_answer
from service.api.deps import LineDep, ReadinessDep
from service.api.http.problems import problem_responses
from service.schemas.product import Liveness, Readiness
from service.version import VERSION

router = APIRouter(tags=["operation"])


@router.get("/health/live", operation_id="live", summary="Is it alive?", responses=problem_responses())
async def live() -> Liveness:
    """Answers as long as the event loop turns. Depends on nothing, waits for nobody."""
    return Liveness()


@router.get(
    "/health/ready",
    operation_id="ready",
    summary="Should images be sent here?",
    response_model=Readiness,
    responses={
        503: {"description": "Not now; the reasons say why.", "model": Readiness},
        **problem_responses(),
    },
)
async def ready(line: LineDep, check: ReadinessDep) -> Response:
    """200 when products are loaded on the provider that was asked for and nobody is stopping the service.

    A broken bundle beside good ones is named and answers 200, `degraded`; where a product must not be
    missing, name it in PLUMBLINE_REQUIRED_PRODUCTS.
    """
    verdict = check()
    body = Readiness(
        status=verdict.status,
        reasons=list(verdict.reasons),
        products=sorted(line.registry.active),
        broken_bundles=[broken_answer(broken) for broken in line.registry.broken],
        version=VERSION,
    )
    return Response(body.model_dump_json(), 200 if verdict.is_ready else 503, media_type="application/json")


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {"description": "Text exposition.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **problem_responses(),
    },
)
def metrics(line: LineDep) -> Response:
    """Everything that is counted and measured."""
    return Response(line.metrics.expose(), headers={"Content-Type": CONTENT_TYPE_PLAIN_1_0_0})


@router.get("/", operation_id="index", summary="The front door", responses=problem_responses())
async def index() -> dict[str, str]:
    """Where to go from here."""
    return {
        "service": "plumbline",
        "version": VERSION,
        "products": "/v1/products",
        "ready": "/health/ready",
        "metrics": "/metrics",
        "openapi": "/openapi.json",
        "docs": "/docs",
    }
