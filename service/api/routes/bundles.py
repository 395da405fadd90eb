"""Bundles over HTTP: upload, list, activate, roll back, watch."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.api.answers import activation_answer, bundle_answer, choice_answer, comparison_answer
from service.api.deps import BundlesDep, LineDep, ProductPath, VersionPath
from service.api.http.bodies import receive_file
from service.api.http.errors import RequestTimeout
from service.api.http.problems import problem_responses
from service.bundle.archive import open_spool
from service.bundle.errors import (
    BundleArchiveInvalid,
    BundleIntegrity,
    BundleInvalid,
    BundleOfOtherProduct,
    BundleSchema,
    BundleTooLarge,
    ExternalData,
    ParityFailure,
    RepositoryNotWritable,
)
from service.bundle.manifest import PRODUCT_NAME
from service.deployment.comparison import compare
from service.deployment.errors import (
    ChangeUnderWay,
    NothingToRollBackTo,
    ProductNotReady,
    ShadowRefused,
    UnknownBundle,
    UnknownProduct,
)
from service.errors import BodyTooLarge, InvalidRequest, ShuttingDown, UnsupportedMediaType
from service.inspection.errors import ProviderUnavailable
from service.schemas.bundle import (
    Activation,
    BundleDecision,
    BundleList,
    BundleRecord,
    ChoiceHistory,
    ChoiceRecord,
    ComparisonRecord,
)
from service.store.errors import StoreUnavailable
from service.store.shadows import paired_verdicts
from service.untrusted_zip import MEDIA_TYPE

router = APIRouter(prefix="/v1/products/{product}", tags=["bundles"])

_MEDIA_TYPES = (MEDIA_TYPE, "application/octet-stream")
_BINARY = {"type": "string", "format": "binary"}
_LOCATION = {"Location": {"description": "Address of the bundle.", "schema": {"type": "string"}}}
_CHANGE_ERRORS = (UnknownProduct, InvalidRequest, BodyTooLarge, ChangeUnderWay, ShuttingDown, StoreUnavailable)
_LOAD_ERRORS = (
    BundleInvalid,
    BundleIntegrity,
    BundleSchema,
    BundleOfOtherProduct,
    ExternalData,
    ParityFailure,
    ProviderUnavailable,
)


@router.post(
    "/bundles",
    operation_id="upload_bundle",
    summary="Upload a bundle",
    status_code=201,
    response_model=BundleRecord,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The bundle as a zip file, as `plumbline bundle export` writes it.",
            "content": {name: {"schema": _BINARY} for name in _MEDIA_TYPES},
        }
    },
    responses={
        200: {"description": "The very same bundle was there already.", "model": BundleRecord, "headers": _LOCATION},
        201: {"description": "It is in the model repository now.", "headers": _LOCATION},
        **problem_responses(
            UnsupportedMediaType,
            InvalidRequest,
            RequestTimeout,
            BundleTooLarge,
            BundleArchiveInvalid,
            BundleIntegrity,
            BundleSchema,
            BundleOfOtherProduct,
            ExternalData,
            RepositoryNotWritable,
            ChangeUnderWay,
            ShuttingDown,
            StoreUnavailable,
        ),
    },
)
async def upload_bundle(request: Request, product: ProductPath, line: LineDep, bundles: BundlesDep) -> Response:
    """Put a bundle into the model repository, all of it or nothing. A new product begins with its first bundle.

    Nothing changes for the images that come in: a bundle decides when it is activated. (Of a product that never had
    an active bundle, the newest serves from the next start on.) Hashes, schema and graph are verified here, golden
    samples when it is loaded.
    """
    if not PRODUCT_NAME.fullmatch(product):
        raise InvalidRequest(
            f"{product!r} cannot be the name of a product. Use 1 to 64 lower-case letters, digits, '-' and '_', and "
            "begin with a letter or a digit."
        )
    content_type = request.headers.get("content-type", "")
    if content_type.split(";")[0].strip().lower() not in _MEDIA_TYPES:
        raise UnsupportedMediaType(content_type or None, _MEDIA_TYPES)
    models, limit_bytes = line.settings.models, line.settings.max_bundle_bytes
    try:
        archive = await run_in_threadpool(open_spool, models)
        try:
            await receive_file(request, archive, line.settings.body_timeout_s)
            async with bundles.uploading:
                version, is_new = await run_in_threadpool(bundles.upload, product, archive, limit_bytes)
        finally:
            await run_in_threadpool(archive.close)
    except OSError as error:
        raise RepositoryNotWritable(models, error.strerror) from error
    location = {"Location": f"/v1/products/{product}/bundles/{version.version}"}
    body = bundle_answer(version).model_dump_json()
    return Response(body, 201 if is_new else 200, location, "application/json")


@router.get(
    "/bundles",
    operation_id="list_bundles",
    summary="List bundles",
    responses=problem_responses(UnknownProduct, InvalidRequest),
)
def list_bundles(product: ProductPath, line: LineDep, bundles: BundlesDep) -> BundleList:
    """Every bundle of the product, newest first, with what it is doing or why it would not be served."""
    versions = bundles.versions(product)
    active, shadow = line.registry.active.get(product), line.registry.shadows.get(product)
    return BundleList(
        items=[bundle_answer(version) for version in versions],
        active=None if active is None else active.bundle.version,
        shadow=None if shadow is None else shadow.bundle.version,
    )


@router.get(
    "/bundles/{version}",
    operation_id="get_bundle",
    summary="Read a bundle",
    responses=problem_responses(UnknownProduct, UnknownBundle, InvalidRequest),
)
def read_bundle(product: ProductPath, version: VersionPath, bundles: BundlesDep) -> BundleRecord:
    """One bundle, as in the list."""
    return bundle_answer(bundles.version(product, version))


@router.post(
    "/bundles/{version}:activate",
    operation_id="activate_bundle",
    summary="Activate a bundle",
    responses=problem_responses(*_CHANGE_ERRORS, *_LOAD_ERRORS, UnknownBundle),
)
def activate_bundle(
    product: ProductPath, version: VersionPath, decision: BundleDecision, line: LineDep, bundles: BundlesDep
) -> Activation:
    """Let a bundle decide, with its recipe, from the next image on. The answer comes when it serves.

    The bundle is loaded and tested beside the one that serves. Images in work are finished by that one; not one is
    refused. If the new bundle fails, the problem says why and everything stays as it was. The choice holds over
    restarts. A bundle that had a recipe before gets it back; another gets one from its own calibration card, for the
    rates that a person chose last.
    """
    choice = bundles.activate(product, version, author=decision.author, reason=decision.reason)
    return activation_answer(choice, line.registry.get(product))


@router.post(
    "/bundles:rollback",
    operation_id="roll_back_bundle",
    summary="Roll back to the bundle before",
    responses=problem_responses(*_CHANGE_ERRORS, *_LOAD_ERRORS, NothingToRollBackTo),
)
def roll_back_bundle(product: ProductPath, decision: BundleDecision, line: LineDep, bundles: BundlesDep) -> Activation:
    """Activate the bundle that was active before the present one, with the recipe that it had.

    A second roll-back goes one bundle further back, never forward to the one that was just left.
    """
    choice = bundles.roll_back(product, author=decision.author, reason=decision.reason)
    return activation_answer(choice, line.registry.get(product))


@router.post(
    "/bundles/{version}:shadow",
    operation_id="shadow_bundle",
    summary="Let a bundle watch",
    responses=problem_responses(*_CHANGE_ERRORS, *_LOAD_ERRORS, UnknownBundle, ShadowRefused),
)
def shadow_bundle(
    product: ProductPath, version: VersionPath, decision: BundleDecision, bundles: BundlesDep
) -> ChoiceRecord:
    """Let a bundle judge the images that the active one decided, beside it, with a recipe from its own card.

    What it says is stored and compared, and decides nothing. A product has one shadow; another one takes its place.
    """
    return choice_answer(bundles.start_shadow(product, version, author=decision.author, reason=decision.reason))


@router.post(
    "/bundles:stop-shadow",
    operation_id="stop_shadow",
    summary="Stop watching",
    responses=problem_responses(*_CHANGE_ERRORS, ShadowRefused),
)
def stop_shadow(product: ProductPath, decision: BundleDecision, bundles: BundlesDep) -> ChoiceRecord:
    """Unload the shadow. What it said stays stored."""
    return choice_answer(bundles.stop_shadow(product, author=decision.author, reason=decision.reason))


@router.get(
    "/bundles:history",
    operation_id="list_bundle_choices",
    summary="List who chose which bundle",
    responses=problem_responses(UnknownProduct, InvalidRequest, StoreUnavailable),
)
def list_choices(
    product: ProductPath,
    line: LineDep,
    bundles: BundlesDep,
    role: Annotated[Literal["active", "shadow"], Query(description="Which role.")] = "active",
    limit: Annotated[int, Query(ge=1, le=500, description="Most choices to list.")] = 100,
) -> ChoiceHistory:
    """Who let which bundle decide or watch, when and why; newest first. Empty where nobody ever chose."""
    if product not in line.registry.known:
        raise UnknownProduct(product, line.registry.known)
    history = bundles.choices.history(product, role, limit=limit)
    return ChoiceHistory(items=[choice_answer(choice) for choice in history])


@router.get(
    "/bundles:compare",
    operation_id="compare_bundles",
    summary="Compare the active bundle with its shadow",
    responses=problem_responses(UnknownProduct, ShadowRefused, InvalidRequest, ProductNotReady, StoreUnavailable),
)
def compare_bundles(
    product: ProductPath,
    line: LineDep,
    bundles: BundlesDep,
    active: Annotated[str | None, Query(max_length=12, description="Version that decided; the present one.")] = None,
    shadow: Annotated[str | None, Query(max_length=12, description="Version that watched; the latest one.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Newest images to look at.")] = 1000,
) -> ComparisonRecord:
    """What two bundles said about the same images: how often they agree, whether one rejects more than chance would
    explain, and the images to look at. The tests are exact; neither says which of the two is right.
    """
    if product not in line.registry.known:
        raise UnknownProduct(product, line.registry.known)
    active = active or line.registry.get(product).bundle.version
    if shadow is None:
        shadow = bundles.choices.latest_version(product, "shadow")
        if shadow is None:
            raise ShadowRefused(product, f"{product!r} never had a shadow to compare with.")
    judged = paired_verdicts(line.store.engine, product, active, shadow, limit)
    return comparison_answer(product, compare(active, shadow, judged))
