"""Threshold proposals: compute thresholds from good images, read them, apply them with a change of the recipe."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from service.access.restrictions import require_all_stations
from service.api.deps import ActorDep, ArchiveSpaceDep, BodyMemoryDep, PrincipalDep, ProposalsDep, SettingsDep
from service.api.http.access import requires
from service.api.http.bodies import receive_json, require_media_type, validate_as
from service.api.http.body_limit import IMAGES, limit_body
from service.api.http.errors import RequestTimeout
from service.api.http.forms import MULTIPART
from service.api.http.image_source import IMAGES_MEDIA_TYPES, ImageSource
from service.api.http.problems import problem_responses
from service.api.openapi import query_parameters
from service.api.parameters import ProductPath
from service.api.responses import BINARY, IMAGES_FORM, location_header
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
from service.schemas.common import Name
from service.schemas.proposal import (
    InspectionSelection,
    Proposal,
    ProposalPage,
    ProposalParameters,
    ProposalRequest,
    UploadParameters,
)
from service.serving.errors import ProposalsBusy
from service.serving.proposer import ProposalTask
from service.serving.records import PartRecord
from service.store.audit import Actor
from service.store.errors import ArtefactGone, NotJudged, StoreUnavailable, UnknownInspection
from service.store.inspections import Selection
from service.store.record_removal.errors import InspectionRemoved
from service.untrusted_zip import MEDIA_TYPE as ZIP

router = APIRouter(prefix="/v1/products", tags=["proposals"])

ProposalPath = Annotated[Name, Path(description="Id of the proposal, a UUIDv7.")]

_JSON = "application/json"
_ERRORS: tuple[Any, ...] = (UnknownProduct, InvalidRequest, StoreUnavailable)


@router.post(
    "/{product}/thresholds:propose",
    operation_id="propose_thresholds",
    summary="Propose thresholds for a false-reject rate",
    status_code=201,
    response_model=Proposal,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "What to propose. Or good images, as a form with several files in the field `image` or as a "
            "zip archive; then the query parameters state what to propose.",
            "content": {
                _JSON: {"schema": {"$ref": "#/components/schemas/ProposalRequest"}},
                MULTIPART: {"schema": IMAGES_FORM},
                ZIP: {"schema": BINARY},
            },
        },
        "parameters": query_parameters(UploadParameters),
    },
    responses={
        201: {"headers": location_header("the stored proposal")},
        **problem_responses(
            *_ERRORS, UnknownInspection, InspectionRemoved, NotJudged, ArtefactGone, BodyTooLarge, TooManyImages,
            BadArchive, UnsupportedMediaType, RequestTimeout, InvalidRecipe, ScoreNotFinite, QueueFull,
            DeadlineExceeded, ShuttingDown, ProposalsBusy, ProductNotReady,
        ),
    },
)  # fmt: skip
@limit_body(IMAGES)
@requires("engineer")
async def propose(
    request: Request,
    product: ProductPath,
    proposals: ProposalsDep,
    actor: ActorDep,
    settings: SettingsDep,
    memory: BodyMemoryDep,
    space: ArchiveSpaceDep,
) -> Response:
    """Derive thresholds from good images, with the guarantee they give and the decisions they would have changed.

    Nothing takes effect: `PUT /v1/products/{product}/recipe` with the `proposal_id` applies them.

    The images are the bundle's calibration card, stored inspections that the author declares good, or the images in the
    body. Days are distinguished by dates in the images' names, otherwise by their folders. Select images by what the
    parts are, not by how they were decided: if good parts that failed are left out, the guarantee does not hold. Do not
    send images that the bundle was trained on.
    """
    active = proposals.active(product)
    media_type = require_media_type(request, (_JSON, *IMAGES_MEDIA_TYPES))
    if media_type == _JSON:
        body = validate_as(ProposalRequest, await receive_json(request), "body")
        selection = None if body.inspections is None else _selection(body.inspections)
        includes_reviewed = body.inspections is not None and body.inspections.include_reviewed_good
        task = ProposalTask(_options(body, actor), body.replay, selection, includes_reviewed)
        proposal = await proposals.propose(active, task)
    else:
        query = validate_as(UploadParameters, dict(request.query_params), "query")
        async with aclosing(ImageSource(request, settings, memory, space, PartRecord()).images()) as frames:
            proposal = await proposals.propose_from(active, ProposalTask(_options(query, actor), query.replay), frames)
    headers = {"Location": f"/v1/products/{product}/proposals/{proposal.id}"}
    return Response(proposal.model_dump_json(), 201, headers, _JSON)


@router.get(
    "/{product}/proposals",
    operation_id="list_proposals",
    summary="List proposals",
    responses=problem_responses(*_ERRORS),
)
@requires("inspect")
def list_proposals(
    product: ProductPath,
    proposals: ProposalsDep,
    principal: PrincipalDep,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Maximum number of proposals on the page.")] = 20,
) -> ProposalPage:
    """Return the proposals of a product page by page, newest first.

    They name inspections of all stations, so a key that is restricted to stations may not read them.
    """
    require_all_stations(principal)
    page = proposals.list_stored(product, cursor, limit)
    return ProposalPage(items=list(page.items), next_cursor=page.next_cursor)


@router.get(
    "/{product}/proposals/{proposal_id}",
    operation_id="get_proposal",
    summary="Get a proposal",
    responses=problem_responses(*_ERRORS, UnknownProposal),
)
@requires("inspect")
def read_proposal(
    product: ProductPath, proposal_id: ProposalPath, proposals: ProposalsDep, principal: PrincipalDep
) -> Proposal:
    """Return a stored proposal. A key that is restricted to stations may not read it."""
    require_all_stations(principal)
    return proposals.get(product, proposal_id)


def _options(given: ProposalParameters, actor: Actor) -> ProposalOptions:
    author = actor.signed(given.author).name
    return ProposalOptions(given.target_false_reject_rate, given.review_rate, given.confidence, author)


def _selection(given: InspectionSelection) -> Selection:
    return Selection(None if given.ids is None else tuple(given.ids), given.since, given.until)
