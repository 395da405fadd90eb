"""Proposed thresholds over HTTP: derive them from good images, look at them, apply them with a recipe change."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from service.api.deps import LineDep, ProductPath, ProposerDep
from service.api.problems import problem_responses
from service.api.schemas import Author, Moment
from service.errors import (
    ArtefactGone,
    BodyTooLarge,
    DeadlineExceeded,
    InvalidRecipe,
    InvalidRequest,
    NotJudged,
    ProductNotReady,
    ProposalsBusy,
    QueueFull,
    ScoreNotFinite,
    ShuttingDown,
    UnknownInspection,
    UnknownProduct,
)
from service.proposal import DEFAULT_CONFIDENCE, Proposal, Wish
from service.proposing import MAX_GOOD_IMAGES, Request
from service.store.errors import StoreUnavailable, UnknownProposal
from service.store.inspections import Selection
from service.store.proposals import get_proposal, list_proposals

router = APIRouter(prefix="/v1/products", tags=["proposals"])

_LOCATION = {"Location": {"description": "Address of the stored proposal.", "schema": {"type": "string"}}}
ProposalPath = Annotated[str, Path(description="Id of the proposal, a UUIDv7.", max_length=64)]


class InspectionSelection(BaseModel):
    """Stored inspections whose parts somebody declares good, whatever was decided about them."""

    model_config = ConfigDict(extra="forbid")

    declared_good: Literal[True] = Field(description="The author vouches that every one of these parts is good.")
    ids: list[UUID] | None = Field(default=None, min_length=1, max_length=MAX_GOOD_IMAGES)
    since: Moment | None = Field(default=None, description="Judged then or later; with `until`, instead of `ids`.")
    until: Moment | None = Field(default=None, description="Judged before.")

    @model_validator(mode="after")
    def _select_one_way(self) -> Self:
        if (self.ids is None) == (self.since is None or self.until is None) or (
            self.ids is not None and (self.since or self.until)
        ):
            raise ValueError("give either ids, or since and until")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("since must be before until")
        return self

    def selection(self) -> Selection:
        return Selection(None if self.ids is None else tuple(self.ids), self.since, self.until)


class ProposalRequest(BaseModel):
    """What to propose, and from which good images."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    author: Author = Field(description="Who asks, and vouches for the images.")
    target_false_reject_rate: float = Field(gt=0, lt=1, description="At most this share of good parts may fail.")
    review_rate: float | None = Field(
        default=None, gt=0, lt=1, description="At most this share may lie above the review threshold."
    )
    confidence: float = Field(
        default=DEFAULT_CONFIDENCE, ge=0.5, le=0.9999, description="Of the bound for the images at hand."
    )
    replay: int = Field(default=500, ge=0, le=10_000, description="How many of the newest inspections to decide again.")
    inspections: InspectionSelection | None = Field(
        default=None, description="Stored inspections to derive from; null: the bundle's calibration card."
    )

    def wish(self) -> Wish:
        return Wish(self.target_false_reject_rate, self.review_rate, self.confidence, self.author)


class ProposalPage(BaseModel):
    """Proposals, newest first."""

    items: list[Proposal]
    next_cursor: str | None = Field(description="Send as `cursor` for the next page; null on the last one.")


_ERRORS: tuple[Any, ...] = (UnknownProduct, InvalidRequest, StoreUnavailable)


@router.post(
    "/{product}/thresholds:propose",
    operation_id="propose_thresholds",
    summary="Propose thresholds for a false-reject rate",
    status_code=201,
    response_model=Proposal,
    responses={
        201: {"headers": _LOCATION},
        **problem_responses(
            *_ERRORS, UnknownInspection, NotJudged, ArtefactGone, BodyTooLarge, InvalidRecipe, ScoreNotFinite,
            QueueFull, DeadlineExceeded, ShuttingDown, ProposalsBusy, ProductNotReady,
        ),
    },
)  # fmt: skip
async def propose(product: ProductPath, body: ProposalRequest, line: LineDep, proposer: ProposerDep) -> Response:
    """Derive thresholds from good images, and say what they promise and what they would have changed. Nothing takes
    effect: `PUT /v1/products/{product}/recipe` with the `proposal_id` applies them.

    The images are the bundle's calibration card, or stored inspections that the author declares good. Choose them by
    what the parts are and not by what was decided about them: leaving out good parts that failed makes the promise
    untrue.
    """
    active = line.registry.get(product)
    selection = None if body.inspections is None else body.inspections.selection()
    with proposer.turn():
        proposal = await proposer.propose(active, Request(body.wish(), body.replay, selection))
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
