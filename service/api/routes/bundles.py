"""Bundles of products: upload, list, activate, roll back, run as a shadow, compare."""

from __future__ import annotations

from typing import IO, Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.deps import ActorDep, BundlesDep, PrincipalDep
from service.api.http.access import requires
from service.api.http.bodies import receive_file, require_media_type
from service.api.http.body_limit import BUNDLE, limit_body
from service.api.http.errors import RequestTimeout, UploadTooSlow
from service.api.http.problems import problem_responses
from service.api.mapping import to_activation, to_bundle_record, to_choice_record, to_comparison_record
from service.api.parameters import ProductPath, VersionPath
from service.api.responses import BINARY, location_header
from service.bundle.errors import (
    BundleArchiveInvalid,
    BundleIntegrity,
    BundleInvalid,
    BundleOfOtherProduct,
    BundleSchema,
    BundleTooLarge,
    ExternalData,
    NotEnoughSpace,
    ParityFailure,
    RepositoryNotWritable,
    SelfTestFailed,
)
from service.deployment.errors import (
    ChangeUnderWay,
    NothingToRollBackTo,
    ProductNotReady,
    ShadowRefused,
    UnknownBundle,
    UnknownProduct,
    UploadsBusy,
)
from service.errors import BodyTooLarge, InvalidRequest, ShuttingDown, UnsupportedMediaType
from service.inspection.errors import ProviderUnavailable
from service.schemas.bundle import (
    Activation,
    BundleActivation,
    BundleDecision,
    BundleList,
    BundleRecord,
    ChoiceHistory,
    ChoiceRecord,
    ComparisonRecord,
)
from service.schemas.common import LABEL_PATTERN
from service.store.bundles.errors import BundleRemoved
from service.store.errors import BundleStoreUnavailable, RecipeUnreadable, RemovalNotConfirmed, StoreUnavailable
from service.untrusted_zip import MEDIA_TYPE

router = APIRouter(prefix="/v1/products/{product}", tags=["bundles"])

_MEDIA_TYPES = (MEDIA_TYPE, "application/octet-stream")
_LOCATION = location_header("the bundle")
_CHANGE_ERRORS = (UnknownProduct, InvalidRequest, BodyTooLarge, ChangeUnderWay, ShuttingDown, StoreUnavailable)
_LOAD_ERRORS = (
    BundleRemoved,
    BundleInvalid,
    BundleIntegrity,
    BundleSchema,
    BundleOfOtherProduct,
    ExternalData,
    ParityFailure,
    SelfTestFailed,
    ProviderUnavailable,
    RecipeUnreadable,
    BundleStoreUnavailable,
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
            "description": "The bundle as a zip archive, as written by `plumbline bundle export`.",
            "content": {name: {"schema": BINARY} for name in _MEDIA_TYPES},
        }
    },
    responses={
        200: {
            "description": "The model repository contained this bundle already.",
            "model": BundleRecord,
            "headers": _LOCATION,
        },
        201: {"description": "The bundle was added to the model repository.", "headers": _LOCATION},
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
            UnknownProduct,
            UploadsBusy,
            UploadTooSlow,
            NotEnoughSpace,
            RepositoryNotWritable,
            ChangeUnderWay,
            ShuttingDown,
            StoreUnavailable,
            BundleStoreUnavailable,
        ),
    },
)
@limit_body(BUNDLE)
@requires("engineer")
async def upload_bundle(
    request: Request,
    product: ProductPath,
    bundles: BundlesDep,
    actor: ActorDep,
    create_product: Annotated[
        bool, Query(description="Create the product if the model repository does not contain it.")
    ] = False,
) -> Response:
    """Add a bundle to the model repository, completely or not at all. A new product needs `create_product=true`.

    The bundle does not decide about images until it is activated, also after a restart. Hashes, schema and graph are
    verified here; the self-test runs when the bundle is loaded.
    """
    require_media_type(request, _MEDIA_TYPES)

    async def receive(archive: IO[bytes]) -> None:
        await receive_file(request, archive)

    stated = request.headers.get("content-length", "")
    version, is_new = await bundles.upload(
        product,
        receive,
        actor=actor,
        stated_bytes=int(stated) if stated.isdigit() else None,
        create_product=create_product,
    )
    location = {"Location": f"/v1/products/{product}/bundles/{version.version}"}
    body = to_bundle_record(version).model_dump_json()
    return Response(body, 201 if is_new else 200, location, "application/json")


@router.get(
    "/bundles",
    operation_id="list_bundles",
    summary="List bundles",
    responses=problem_responses(UnknownProduct, InvalidRequest, StoreUnavailable),
)
@requires("inspect")
def list_bundles(product: ProductPath, bundles: BundlesDep) -> BundleList:
    """Return all bundles of the product, newest first, each with its state and, if it is broken, the reason."""
    found = bundles.list_bundles(product)
    return BundleList(
        items=[to_bundle_record(version) for version in found.versions], active=found.active, shadow=found.shadow
    )


@router.get(
    "/bundles/{version:identifier}",
    operation_id="get_bundle",
    summary="Get a bundle",
    responses=problem_responses(UnknownProduct, UnknownBundle, BundleRemoved, InvalidRequest, StoreUnavailable),
)
@requires("inspect")
def read_bundle(product: ProductPath, version: VersionPath, bundles: BundlesDep) -> BundleRecord:
    """Return one bundle with its state."""
    return to_bundle_record(bundles.get(product, version))


@router.post(
    "/bundles/{version}:activate",
    operation_id="activate_bundle",
    summary="Activate a bundle",
    responses=problem_responses(*_CHANGE_ERRORS, *_LOAD_ERRORS, UnknownBundle, RemovalNotConfirmed),
)
@requires("engineer")
def activate_bundle(
    product: ProductPath, version: VersionPath, decision: BundleActivation, bundles: BundlesDep, actor: ActorDep
) -> Activation:
    """Activate a bundle with its recipe from the next image on. The response is sent when the bundle serves.

    The bundle is loaded and tested beside the active one, which completes the images in flight; no image is refused. If
    the new bundle cannot be served, the problem explains why and nothing changes. The choice is kept over restarts. If
    the bundle had a recipe before, that recipe is in force again. Otherwise a recipe is derived from the bundle's own
    calibration card, for the rates that a person chose last.
    """
    activated = bundles.activate(
        product,
        version,
        actor=actor.signed(decision.author),
        reason=decision.reason,
        confirm_removal=decision.confirm_removal,
    )
    return to_activation(activated)


@router.post(
    "/bundles:rollback",
    operation_id="roll_back_bundle",
    summary="Roll back to the previous bundle",
    responses=problem_responses(*_CHANGE_ERRORS, *_LOAD_ERRORS, NothingToRollBackTo, RemovalNotConfirmed),
)
@requires("engineer")
def roll_back_bundle(
    product: ProductPath, decision: BundleActivation, bundles: BundlesDep, actor: ActorDep
) -> Activation:
    """Activate the bundle that was active before the present one, with its recipe.

    A second roll-back goes one bundle further back. It never returns to the bundle that was rolled back.
    """
    activated = bundles.roll_back(
        product,
        actor=actor.signed(decision.author),
        reason=decision.reason,
        confirm_removal=decision.confirm_removal,
    )
    return to_activation(activated)


@router.post(
    "/bundles/{version}:shadow",
    operation_id="shadow_bundle",
    summary="Start a shadow deployment",
    responses=problem_responses(*_CHANGE_ERRORS, *_LOAD_ERRORS, UnknownBundle, ShadowRefused),
)
@requires("engineer")
def shadow_bundle(
    product: ProductPath, version: VersionPath, decision: BundleDecision, bundles: BundlesDep, actor: ActorDep
) -> ChoiceRecord:
    """Run a bundle as a shadow: it judges the same images as the active bundle, with a recipe from its own card.

    Its decisions are stored and can be compared, but have no effect. A product has at most one shadow; a new one
    replaces it.
    """
    signed = actor.signed(decision.author)
    return to_choice_record(bundles.start_shadow(product, version, actor=signed, reason=decision.reason))


@router.post(
    "/bundles:stop-shadow",
    operation_id="stop_shadow",
    summary="Stop the shadow deployment",
    responses=problem_responses(*_CHANGE_ERRORS, ShadowRefused),
)
@requires("engineer")
def stop_shadow(product: ProductPath, decision: BundleDecision, bundles: BundlesDep, actor: ActorDep) -> ChoiceRecord:
    """Unload the shadow. Its decisions stay stored."""
    signed = actor.signed(decision.author)
    return to_choice_record(bundles.stop_shadow(product, actor=signed, reason=decision.reason))


@router.get(
    "/bundles:history",
    operation_id="list_bundle_choices",
    summary="List the history of active and shadow bundles",
    responses=problem_responses(UnknownProduct, InvalidRequest, StoreUnavailable),
)
@requires("inspect")
def list_choices(
    product: ProductPath,
    bundles: BundlesDep,
    role: Annotated[Literal["active", "shadow"], Query(description="Role of the bundle.")] = "active",
    limit: Annotated[int, Query(ge=1, le=500, description="Maximum number of choices.")] = 100,
) -> ChoiceHistory:
    """Return which bundle got the role, with author, time and reason, newest first. Empty if none was ever chosen."""
    return ChoiceHistory(items=[to_choice_record(choice) for choice in bundles.history(product, role, limit)])


@router.get(
    "/bundles:compare",
    operation_id="compare_bundles",
    summary="Compare the active bundle with its shadow",
    responses=problem_responses(UnknownProduct, ShadowRefused, InvalidRequest, ProductNotReady, StoreUnavailable),
)
@requires("inspect")
def compare_bundles(
    product: ProductPath,
    bundles: BundlesDep,
    principal: PrincipalDep,
    active: Annotated[
        str | None,
        Query(max_length=12, pattern=LABEL_PATTERN, description="Version that decided; by default the active one."),
    ] = None,
    shadow: Annotated[
        str | None,
        Query(
            max_length=12,
            pattern=LABEL_PATTERN,
            description="Version that ran as the shadow; by default the latest one.",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Maximum number of images, newest first.")] = 1000,
) -> ComparisonRecord:
    """Compare the decisions of two bundles about the same images.

    The result shows how often they agree, whether one of them rejects significantly more, and which images they decide
    differently. The tests are exact. They do not show which bundle is right. A key that is restricted to stations gets
    the comparison of their images.
    """
    return to_comparison_record(product, bundles.compare(product, active, shadow, limit, principal.stations))
