"""Drift of a product: evidence that inspections differ from what the guarantee was derived from."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.deps import DriftDep
from service.api.http.access import requires
from service.api.parameters import ProductPath
from service.schemas.drift import DriftStream
from service.serving.drift.explanations import explain_stream, remedy
from service.web.page import PagesDep
from service.web.product_frame import frame, product_of

router = APIRouter(include_in_schema=False)

_RANKS = {"alarm": 0, "ok": 1, "collecting": 2}


@router.get("/products/{product}/drift")
@requires("engineer")
def drift_page(request: Request, product: ProductPath, drift: DriftDep, pages: PagesDep) -> Response:
    """Return the drift of a product, alarms first."""
    texts = pages.texts(request)
    context = frame(product_of(request, product), texts)

    def explained(stream: DriftStream) -> str:
        return explain_stream(stream.kind, stream.direction, stream.state, stream.count, texts.text)

    context |= {"explained": explained, "remedy_for": lambda kind: remedy(kind, texts.text)}
    report = drift.report(product)
    streams = sorted(report.streams, key=_order)
    charts = [
        {
            "limit": stream.limit,
            "at": [point.at.timestamp() for point in stream.history],
            "evidence": [point.evidence for point in stream.history],
        }
        for stream in streams
    ]
    return pages.page(request, "product_drift.html", report=report, streams=streams, charts=charts, **context)


def _order(stream: DriftStream) -> tuple[int, float, str, str]:
    return _RANKS.get(stream.state, 1), -stream.evidence, stream.kind, stream.station or ""
