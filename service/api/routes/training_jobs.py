"""Training jobs: send good images, follow and cancel the job, and what workers need."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from service.access.restrictions import require_all_stations
from service.api.deps import ActorDep, ArchiveSpaceDep, BodyMemoryDep, PrincipalDep, SettingsDep, TrainingDep
from service.api.http.access import requires
from service.api.http.bodies import receive_json, require_media_type, validate_as
from service.api.http.body_limit import IMAGES, limit_body
from service.api.http.errors import RequestTimeout
from service.api.http.forms import MULTIPART
from service.api.http.image_source import IMAGES_MEDIA_TYPES, ImageSource
from service.api.http.problems import problem_responses
from service.api.openapi import query_parameters
from service.api.parameters import ProductPath
from service.api.responses import BINARY, IMAGES_FORM, binary_response, location_header
from service.api.training_mapping import to_claim, to_trained_version, to_training_image, to_training_job
from service.deployment.errors import UnknownProduct
from service.errors import (
    BadArchive,
    BodyTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    MemoryBudgetExceeded,
    TooManyImages,
    UnsupportedMediaType,
)
from service.inspection.decoding.formats import MEDIA_TYPES
from service.schemas.common import Name
from service.schemas.training import (
    ClaimRequest,
    GoodImageSelection,
    GoodImageUpload,
    TrainingClaim,
    TrainingEnd,
    TrainingImageList,
    TrainingJob,
    TrainingJobPage,
    TrainingReport,
)
from service.serving.errors import GoodImagesBusy, TrainingStorageFull
from service.serving.records import PartRecord
from service.store.errors import (
    ArtefactGone,
    StoredImageUnreadable,
    StoreUnavailable,
    TrainingJobEnded,
    TrainingJobNotHeld,
    UnknownInspection,
    UnknownTrainingJob,
)
from service.store.record_removal.errors import InspectionRemoved
from service.store.training.records import JobEnd, JobProgress
from service.untrusted_zip import MEDIA_TYPE as ZIP

router = APIRouter(prefix="/v1", tags=["training"])

JobPath = Annotated[Name, Path(description="Id of the training job.")]
_JSON = "application/json"
_JOBS = "/products/{product}/training-jobs"
_ERRORS = (InvalidRequest, StoreUnavailable)
_JOB_ERRORS = (*_ERRORS, UnknownTrainingJob)


@router.post(
    "/products/{product}/good-images",
    operation_id="teach_product",
    summary="Teach a product from good images",
    status_code=202,
    response_model=TrainingJob,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "Stored inspections that are labelled good by reviews. Or good images, as a form with "
            "several files in the field `image` or as a zip archive; then the query parameters state what to do.",
            "content": {
                _JSON: {"schema": {"$ref": "#/components/schemas/GoodImageSelection"}},
                MULTIPART: {"schema": IMAGES_FORM},
                ZIP: {"schema": BINARY},
            },
        },
        "parameters": query_parameters(GoodImageUpload),
    },
    responses={
        202: {"description": "The training job is queued.", "headers": location_header("the training job")},
        **problem_responses(
            *_ERRORS, UnknownProduct, UnknownInspection, InspectionRemoved, ArtefactGone, StoredImageUnreadable,
            BodyTooLarge, TooManyImages, BadArchive, UnsupportedMediaType, RequestTimeout, MemoryBudgetExceeded,
            DeadlineExceeded, GoodImagesBusy, TrainingStorageFull,
        ),
    },
)  # fmt: skip
@limit_body(IMAGES)
@requires("engineer")
async def teach_product(
    request: Request,
    product: ProductPath,
    training: TrainingDep,
    actor: ActorDep,
    principal: PrincipalDep,
    settings: SettingsDep,
    memory: BodyMemoryDep,
    space: ArchiveSpaceDep,
) -> Response:
    """Queue a training job: a worker makes bundles from images of good parts, completely or not at all.

    The first bundle is made without training steps within minutes, and needs 8 different images. With 20 or
    more, the whole training follows, and makes the next version. A product that serves nothing gets the first bundle at
    once if `activate` is true. If the product serves a bundle, a new one runs as its shadow, until a person activates
    it.

    Every image is decoded before the job is queued; one that cannot be used is refused with its name. Days are
    distinguished by dates in the images' names, otherwise by their folders. Send all good images, also those of parts
    that failed: if these are left out, the guarantee does not hold.
    """
    require_all_stations(principal)
    media_type = require_media_type(request, (_JSON, *IMAGES_MEDIA_TYPES))
    if media_type == _JSON:
        body = validate_as(GoodImageSelection, await receive_json(request), "body")
        job = await training.queue_selected(product, body, actor.signed(body.author))
    else:
        query = validate_as(GoodImageUpload, dict(request.query_params), "query")
        stated = request.headers.get("content-length", "")
        async with aclosing(ImageSource(request, settings, memory, space, PartRecord()).images()) as frames:
            job = await training.queue_sent(
                product, query, frames, actor.signed(query.author), int(stated) if stated.isdecimal() else None
            )
    headers = {"Location": f"/v1/products/{product}/training-jobs/{job.id}"}
    return Response(to_training_job(job).model_dump_json(), 202, headers, _JSON)


@router.get(
    _JOBS,
    operation_id="list_training_jobs",
    summary="List training jobs",
    responses=problem_responses(*_ERRORS),
)
@requires("inspect")
def list_jobs(
    product: ProductPath,
    training: TrainingDep,
    principal: PrincipalDep,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Maximum number of jobs on the page.")] = 20,
) -> TrainingJobPage:
    """Return the training jobs of a product page by page, newest first.

    They concern all stations, so a key that is restricted to stations may not read them.
    """
    require_all_stations(principal)
    page = training.list_jobs({product}, cursor, limit)
    return TrainingJobPage(items=[to_training_job(job) for job in page.items], next_cursor=page.next_cursor)


@router.get(
    _JOBS + "/{job_id:identifier}",
    operation_id="get_training_job",
    summary="Get a training job",
    responses=problem_responses(*_JOB_ERRORS),
)
@requires("inspect")
def read_job(product: ProductPath, job_id: JobPath, training: TrainingDep, principal: PrincipalDep) -> TrainingJob:
    """Return a training job with its progress."""
    require_all_stations(principal)
    return to_training_job(training.get(product, job_id))


@router.post(
    _JOBS + "/{job_id}:cancel",
    operation_id="cancel_training_job",
    summary="Cancel a training job",
    responses=problem_responses(*_JOB_ERRORS, TrainingJobEnded),
)
@requires("engineer")
def cancel_job(
    product: ProductPath, job_id: JobPath, training: TrainingDep, actor: ActorDep, principal: PrincipalDep
) -> TrainingJob:
    """Cancel a training job. Bundles that it has made already stay.

    A job that is running ends when its worker reports the next time, which takes a few seconds.
    """
    require_all_stations(principal)
    return to_training_job(training.cancel(product, job_id, actor))


@router.post(
    "/training-jobs:claim",
    operation_id="claim_training_job",
    summary="Claim a training job",
    responses=problem_responses(*_ERRORS),
)
@requires("engineer", filters=True)
def claim_job(body: ClaimRequest, training: TrainingDep, actor: ActorDep, principal: PrincipalDep) -> TrainingClaim:
    """Give the oldest queued job to a worker, of the products that its key permits.

    The worker has to report within `lease_s` seconds, again and again. Otherwise the job is queued again, and what the
    worker reports about it later is refused.
    """
    require_all_stations(principal)
    return to_claim(training.claim(body.worker, principal.products, actor), training.limits)


@router.post(
    _JOBS + "/{job_id}:report",
    operation_id="report_training_job",
    summary="Report the progress of a training job",
    responses=problem_responses(*_JOB_ERRORS, TrainingJobNotHeld),
)
@requires("engineer")
def report_job(
    product: ProductPath, job_id: JobPath, body: TrainingReport, training: TrainingDep, principal: PrincipalDep
) -> TrainingJob:
    """Store the progress that a worker reports. The response states whether the job is to end (`cancel_requested`)."""
    require_all_stations(principal)
    version = None if body.version is None else to_trained_version(body.version)
    progress = JobProgress(body.stage, body.done, body.total, body.seconds, version)
    return to_training_job(training.report(product, job_id, body.claim, progress, body.findings))


@router.post(
    _JOBS + "/{job_id}:finish",
    operation_id="finish_training_job",
    summary="End the work on a training job",
    responses=problem_responses(*_JOB_ERRORS, TrainingJobNotHeld),
)
@requires("engineer")
def finish_job(
    product: ProductPath,
    job_id: JobPath,
    body: TrainingEnd,
    training: TrainingDep,
    actor: ActorDep,
    principal: PrincipalDep,
) -> TrainingJob:
    """End the work of a worker on a job. A job that is `released` is queued again."""
    require_all_stations(principal)
    return to_training_job(training.end(product, job_id, body.claim, JobEnd(body.outcome, body.error), actor))


@router.get(
    _JOBS + "/{job_id}/images",
    operation_id="list_training_images",
    summary="List the images of a training job",
    responses=problem_responses(*_JOB_ERRORS),
)
@requires("engineer")
def list_images(
    product: ProductPath, job_id: JobPath, training: TrainingDep, principal: PrincipalDep
) -> TrainingImageList:
    """Return the images of a job, also if they are no longer stored."""
    require_all_stations(principal)
    return TrainingImageList(items=[to_training_image(image) for image in training.images(product, job_id)])


@router.get(
    _JOBS + "/{job_id}/images/{number}",
    operation_id="get_training_image",
    summary="Get an image of a training job",
    response_class=Response,
    responses={
        200: binary_response("The image.", MEDIA_TYPES),
        **problem_responses(*_JOB_ERRORS),
    },
)
@requires("engineer")
def read_image(
    product: ProductPath,
    job_id: JobPath,
    number: Annotated[int, Path(ge=1, le=10_000, description="Number of the image.")],
    training: TrainingDep,
    principal: PrincipalDep,
) -> Response:
    """Return an image of a job, byte for byte as training reads it."""
    require_all_stations(principal)
    image, data = training.read_image(product, job_id, number)
    return Response(data, media_type=image.media_type)
