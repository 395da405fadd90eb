"""Reviews: label inspections, list what to review, and evaluate the labels."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from starlette.responses import Response as StarletteResponse

from service.access.restrictions import require_product, stations_of
from service.api.deps import ActorDep, PrincipalDep, ReviewsDep
from service.api.http.access import requires
from service.api.http.head import headers_only, is_head
from service.api.http.problems import problem_responses
from service.api.http.streamed_export import ExportResponse
from service.api.parameters import InspectionPath
from service.api.responses import binary_response
from service.api.review_mapping import to_agreement, to_history, to_queue, to_rates, to_review
from service.deployment.errors import ProductNotReady, UnknownProduct
from service.errors import InvalidRequest
from service.reviews.errors import NoReviewToWithdraw, ReviewsBusy
from service.reviews.sampling import DEFAULT_SAMPLE, SamplePlan
from service.schemas.common import Author, Label, Name, UtcDatetime
from service.schemas.review import (
    AgreementReport,
    DefectKind,
    DefectKinds,
    RatesReport,
    Review,
    ReviewHistory,
    ReviewQueue,
    ReviewRequest,
    UndoRequest,
)
from service.serving.review_evaluation import PeriodRequest
from service.serving.review_export import ExportTask
from service.serving.reviews import as_reviewer
from service.store.errors import StoreUnavailable, UnknownInspection
from service.store.record_removal.errors import InspectionRemoved
from service.store.reviews import ReviewDraft
from service.untrusted_zip import MEDIA_TYPE as ZIP

router = APIRouter(tags=["reviews"])

_ERRORS = (UnknownInspection, InspectionRemoved, InvalidRequest, StoreUnavailable)
_REPORT_ERRORS = (UnknownProduct, InvalidRequest, ReviewsBusy, StoreUnavailable)
_MAX_SAMPLE = 10_000

ProductQuery = Annotated[Label, Query(description="The product.")]
SinceQuery = Annotated[
    UtcDatetime | None,
    Query(description="Start of the period, inclusive; by default midnight UTC seven days ago."),
]
StartQuery = Annotated[UtcDatetime | None, Query(description="Start of the period, inclusive.")]
UntilQuery = Annotated[UtcDatetime | None, Query(description="End of the period, exclusive.")]
PassSampleQuery = Annotated[
    int,
    Query(
        ge=0, le=_MAX_SAMPLE, description="Passed parts to sample per bundle, in equal numbers from each score stratum."
    ),
]
FailSampleQuery = Annotated[
    int,
    Query(
        ge=0, le=_MAX_SAMPLE, description="Failed parts to sample per bundle, in equal numbers from each score stratum."
    ),
]
ThresholdQuery = Annotated[float | None, Query(allow_inf_nan=False)]


@router.post(
    "/v1/inspections/{inspection_id}:review",
    operation_id="review_inspection",
    summary="Review an inspection",
    status_code=201,
    responses={
        200: {"description": "The reviewer has just sent the same review; it is returned.", "model": Review},
        **problem_responses(*_ERRORS),
    },
)
@requires("review")
def review_inspection(
    inspection_id: InspectionPath,
    review: ReviewRequest,
    reviews: ReviewsDep,
    actor: ActorDep,
    response: Response,
) -> Review:
    """Label an inspection as good, as defect, or as unsure.

    Reviews are never changed or deleted. A reviewer's newer review replaces the earlier one; both stay in the history.
    The same review again within 10 seconds, as by a double click, is not stored a second time.
    """
    draft = ReviewDraft(as_reviewer(actor, review.reviewer), review.label, review.kind, review.note)
    found, stored, is_new = reviews.add(inspection_id, draft)
    response.status_code = 201 if is_new else 200
    return to_review(stored, found)


@router.post(
    "/v1/inspections/{inspection_id}:undo-review",
    operation_id="undo_review",
    summary="Withdraw a review",
    responses=problem_responses(*_ERRORS, NoReviewToWithdraw),
)
@requires("review")
def undo_review(
    inspection_id: InspectionPath,
    reviews: ReviewsDep,
    actor: ActorDep,
    undo: Annotated[UndoRequest | None, Body()] = None,
) -> ReviewHistory:
    """Withdraw one's own newest review of an inspection. The review before it, if there is one, is current again.

    The withdrawn review stays in the history.
    """
    undo = undo or UndoRequest()
    reviewer = as_reviewer(actor, undo.reviewer)
    return to_history(inspection_id, reviews.withdraw(inspection_id, reviewer, undo.review_id))


@router.get(
    "/v1/inspections/{inspection_id}/reviews",
    operation_id="list_reviews",
    summary="List the reviews of an inspection",
    responses=problem_responses(*_ERRORS),
)
@requires("inspect")
def list_reviews(inspection_id: InspectionPath, reviews: ReviewsDep) -> ReviewHistory:
    """Return the label of an inspection and all of its reviews, newest first."""
    return to_history(inspection_id, reviews.history(inspection_id))


@router.get(
    "/v1/reviews:queue",
    operation_id="review_queue",
    summary="List inspections to review",
    responses=problem_responses(*_REPORT_ERRORS),
)
@requires("review", filters=True)
def review_queue(
    product: ProductQuery,
    reviews: ReviewsDep,
    actor: ActorDep,
    principal: PrincipalDep,
    reviewer: Annotated[
        Author | None, Query(description="The reviewer, as in a review; by default the authenticated name.")
    ] = None,
    since: SinceQuery = None,
    until: UntilQuery = None,
    pass_sample: PassSampleQuery = DEFAULT_SAMPLE,
    fail_sample: FailSampleQuery = DEFAULT_SAMPLE,
    limit: Annotated[int, Query(ge=1, le=500, description="Maximum number of inspections.")] = 50,
    after: Annotated[
        Name | None,
        Query(description="Id of the last inspection of the page before; the response has those that follow it."),
    ] = None,
) -> ReviewQueue:
    """Return what a reviewer has not reviewed yet: all `review` decisions, a sample, and disagreements with a shadow.

    The sample is drawn from the passed and the failed parts of the period, the same number from each stratum of scores,
    so that scores near the thresholds are drawn more often. It depends on the ids of the inspections only, so it does
    not change from call to call while the period has the same inspections. Each item states why it is in the queue and
    with which probability the sample contains it. `GET /v1/reviews:rates` with the same parameters evaluates the
    sample.
    """
    require_product(principal, product)
    name = as_reviewer(actor, reviewer).name
    request = PeriodRequest(product, since, until, SamplePlan(pass_sample, fail_sample), stations_of(principal))
    evaluation = reviews.evaluation
    with evaluation.slot():
        period = evaluation.sample(request)
        found = evaluation.queue(period, name, after)
        return to_queue(period, found, name, evaluation.times(found.items[:limit]))


@router.get(
    "/v1/reviews:kinds",
    operation_id="review_kinds",
    summary="List kinds of defects",
    responses=problem_responses(UnknownProduct, InvalidRequest, StoreUnavailable),
)
@requires("review", filters=True)
def review_kinds(product: ProductQuery, reviews: ReviewsDep, principal: PrincipalDep) -> DefectKinds:
    """Return the kinds of defects that reviewers of a product named, most frequent first, at most 100."""
    require_product(principal, product)
    found = [DefectKind(kind=kind, reviews=count) for kind, count in reviews.kinds(product, principal.stations)]
    return DefectKinds(product=product, items=found)


@router.get(
    "/v1/reviews:agreement",
    operation_id="review_agreement",
    summary="Compare reviewers",
    responses=problem_responses(*_REPORT_ERRORS),
)
@requires("review", filters=True)
def review_agreement(product: ProductQuery, reviews: ReviewsDep, principal: PrincipalDep) -> AgreementReport:
    """Return the agreement of each pair of reviewers (Cohen's kappa) and of all of them (Krippendorff's alpha).

    Only current reviews count. The interval of kappa uses the standard error of Fleiss, Cohen and Everitt (1969).
    """
    require_product(principal, product)
    with reviews.evaluation.slot():
        return to_agreement(product, reviews.evaluation.agreement(product, principal.stations))


@router.get(
    "/v1/reviews:rates",
    operation_id="review_rates",
    summary="Estimate false-reject and miss rates",
    responses=problem_responses(*_REPORT_ERRORS, ProductNotReady),
)
@requires("review", filters=True)
def review_rates(
    product: ProductQuery,
    reviews: ReviewsDep,
    principal: PrincipalDep,
    fail_threshold: Annotated[
        ThresholdQuery, Query(description="Proposed fail threshold; by default the one in force.")
    ] = None,
    review_threshold: Annotated[
        ThresholdQuery, Query(description="Proposed review threshold; by default the one in force.")
    ] = None,
    since: SinceQuery = None,
    until: UntilQuery = None,
    pass_sample: PassSampleQuery = DEFAULT_SAMPLE,
    fail_sample: FailSampleQuery = DEFAULT_SAMPLE,
) -> RatesReport:
    """Estimate how many good parts fail and how many defective parts pass, from the labels of the sampled inspections.

    Use the period and the sample sizes of the queue that was reviewed. The rates are those of the decisions as they
    were made, of the thresholds in force, and of thresholds in the request. Each reviewed part is weighted by the
    number of inspections that it stands for. The intervals have a confidence of 95 %.
    """
    require_product(principal, product)
    evaluation = reviews.evaluation
    request = PeriodRequest(product, since, until, SamplePlan(pass_sample, fail_sample), stations_of(principal))
    with evaluation.slot():
        period = evaluation.sample(request)
        return to_rates(period, evaluation.rates(period, fail_threshold, review_threshold))


@router.get(
    "/v1/reviews:export",
    operation_id="export_reviews",
    summary="Export labelled images",
    response_class=StarletteResponse,
    responses={
        200: binary_response("Zip archive with the images in the folders of MVTec AD, and `manifest.csv`.", (ZIP,)),
        **problem_responses(*_REPORT_ERRORS),
    },
)
@requires("review", filters=True)
def export_reviews(
    request: Request,
    product: ProductQuery,
    reviews: ReviewsDep,
    principal: PrincipalDep,
    since: StartQuery = None,
    until: UntilQuery = None,
    test_share: Annotated[
        float, Query(ge=0, le=1, description="Share of the good images that become test images.")
    ] = 0.2,
) -> StarletteResponse:
    """Return the images that are labelled good or defect, for `plumbline-train fit` and `evaluate`.

    Good images are in `train/good` and `test/good`, defective ones in `test/KIND`; there are no masks. File names
    contain the date and the id of the inspection. Camera buffers are converted to PNG. `manifest.csv` lists all
    labelled inspections, also those whose image is no longer stored. The archive is made while it is sent.
    """
    require_product(principal, product)
    export = reviews.export(ExportTask(product, since, until, test_share, stations_of(principal)))
    headers = {"Content-Disposition": 'attachment; filename="reviews.zip"'}
    if is_head(request.scope):
        export.close()
        return headers_only(headers, ZIP)
    return ExportResponse(export.pieces(), export.close, headers, ZIP)
