"""Proposed thresholds over HTTP: derive them from good images, look at them, apply them with a recipe change."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from service.api.deps import LineDep, ProductPath, ProposerDep
from service.api.http.bodies import read_as, receive_json
from service.api.http.errors import RequestTimeout
from service.api.http.forms import IMAGE_FIELD, MULTIPART
from service.api.http.image_source import ImageSource
from service.api.http.problems import problem_responses
from service.api.openapi import query_parameters
from service.api.routes.inspections import BINARY
from service.deployment.errors import ProductNotReady, UnknownProduct
from service.errors import (
    BadArchive,
    BodyTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    QueueFull,
    ShuttingDown,
    TooManyImages,
    UnsupportedMediaType,
)
from service.inspection.errors import ScoreNotFinite
from service.proposals.errors import UnknownProposal
from service.proposals.records import ProposalOptions
from service.recipes.errors import InvalidRecipe
from service.schemas.proposal import (
    InspectionSelection,
    Proposal,
    ProposalPage,
    ProposalParameters,
    ProposalRequest,
    UploadParameters,
)
from service.serving.batch import Frame
from service.serving.errors import ProposalsBusy
from service.serving.proposer import Wanted
from service.serving.records import PartRecord
from service.store.errors import ArtefactGone, NotJudged, StoreUnavailable, UnknownInspection
from service.store.inspections import Selection
from service.store.proposals import get_proposal, list_proposals
from service.untrusted_zip import MEDIA_TYPE as ZIP

router = APIRouter(prefix="/v1/products", tags=["proposals"])

_LOCATION = {"Location": {"description": "Address of the stored proposal.", "schema": {"type": "string"}}}
ProposalPath = Annotated[str, Path(description="Id of the proposal, a UUIDv7.", max_length=64)]


_MEDIA_TYPES = ("application/json", MULTIPART, ZIP)
_ERRORS: tuple[Any, ...] = (UnknownProduct, InvalidRequest, StoreUnavailable)
_FORM_SCHEMA = {
    "type": "object",
    "required": [IMAGE_FIELD],
    "properties": {IMAGE_FIELD: {"type": "array", "items": BINARY}},
}


@router.post(
    "/{product}/thresholds:propose",
    operation_id="propose_thresholds",
    summary="Propose thresholds for a false-reject rate",
    status_code=201,
    response_model=Proposal,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "What to propose; or good images, as a form with several files in its field `image` or as "
            "a zip file, and then the query says what to propose.",
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/ProposalRequest"}},
                MULTIPART: {"schema": _FORM_SCHEMA},
                ZIP: {"schema": BINARY},
            },
        },
        "parameters": query_parameters(UploadParameters),
    },
    responses={
        201: {"headers": _LOCATION},
        **problem_responses(
            *_ERRORS, UnknownInspection, NotJudged, ArtefactGone, BodyTooLarge, TooManyImages, BadArchive,
            UnsupportedMediaType, RequestTimeout, InvalidRecipe, ScoreNotFinite, QueueFull, DeadlineExceeded,
            ShuttingDown, ProposalsBusy, ProductNotReady,
        ),
    },
)  # fmt: skip
async def propose(request: Request, product: ProductPath, line: LineDep, proposer: ProposerDep) -> Response:
    """Derive thresholds from good images, and say what they promise and what they would have changed. Nothing takes
    effect: `PUT /v1/products/{product}/recipe` with the `proposal_id` applies them.

    The images are the bundle's calibration card, stored inspections that the author declares good, or the images in
    the body: dates in their names, else their folders, tell the days apart. Choose them by what the parts are and not
    by what was decided about them: leaving out good parts that failed makes the promise untrue. Never send images
    that the bundle was trained on.
    """
    active = line.registry.get(product)
    content_type = request.headers.get("content-type", "")
    media_type = content_type.split(";")[0].strip().lower()
    if media_type not in _MEDIA_TYPES:
        raise UnsupportedMediaType(content_type or None, _MEDIA_TYPES)
    if media_type == "application/json":
        body = read_as(ProposalRequest, await receive_json(request, line.settings.body_timeout_s), "body")
        selection = None if body.inspections is None else _selection(body.inspections)
        with proposer.turn():
            proposal = await proposer.propose(active, Wanted(_wish(body), body.replay, selection))
    else:
        query = read_as(UploadParameters, dict(request.query_params), "query")
        source = ImageSource(request, line.settings, Frame(b"", PartRecord()))
        with proposer.turn():
            frames = source.zipped() if media_type == ZIP else source.form(content_type)
            async with aclosing(frames):
                proposal = await proposer.propose_from(active, Wanted(_wish(query), query.replay), frames)
    headers = {"Location": f"/v1/products/{product}/proposals/{proposal.id}"}
    return Response(proposal.model_dump_json(), 201, headers, "application/json")


@router.get(
    "/{product}/proposals",
    operation_id="list_proposals",
    summary="List proposed thresholds",
    responses=problem_responses(*_ERRORS),
)
def list_stored(
    product: ProductPath,
    line: LineDep,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Most proposals on a page.")] = 20,
) -> ProposalPage:
    """A product's proposals, newest first, a page at a time."""
    _know(line.registry.known, product)
    found = list_proposals(line.store.engine, product, before=cursor, limit=limit + 1)
    more = len(found) > limit
    return ProposalPage(items=list(found[:limit]), next_cursor=found[limit - 1].id if more else None)


@router.get(
    "/{product}/proposals/{proposal_id}",
    operation_id="get_proposal",
    summary="Read a proposal",
    responses=problem_responses(*_ERRORS, UnknownProposal),
)
def read_proposal(product: ProductPath, proposal_id: ProposalPath, line: LineDep) -> Proposal:
    """The proposal as it was answered."""
    _know(line.registry.known, product)
    return get_proposal(line.store.engine, product, proposal_id).proposal


def _know(known: frozenset[str], product: str) -> None:
    if product not in known:
        raise UnknownProduct(product, known)


def _wish(wanted: ProposalParameters) -> ProposalOptions:
    return ProposalOptions(wanted.target_false_reject_rate, wanted.review_rate, wanted.confidence, wanted.author)


def _selection(selected: InspectionSelection) -> Selection:
    return Selection(None if selected.ids is None else tuple(selected.ids), selected.since, selected.until)
