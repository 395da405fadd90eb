"""Recipes of products: read, change, compare and revert them, as JSON or as a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from service.api.deps import ActorDep, DriftDep, PrincipalDep, RecipesDep
from service.api.http.access import requires
from service.api.http.bodies import require_media_type, validate_as
from service.api.http.body_limit import RECIPE, limit_body
from service.api.http.errors import NotAcceptable
from service.api.http.negotiation import negotiate
from service.api.http.problems import problem_responses
from service.api.mapping import suspension_for, to_recipe_record, to_revision_facts
from service.api.parameters import ProductPath
from service.deployment.errors import ProductNotReady, UnknownProduct
from service.errors import (
    BodyTooLarge,
    InvalidRequest,
    ShuttingDown,
    UnsupportedMediaType,
)
from service.proposals.errors import ProposalOutdated, UnknownProposal
from service.recipes.errors import InvalidRecipe
from service.recipes.toml_file import MEDIA_TYPE as TOML
from service.recipes.toml_file import read_toml, write_toml
from service.schemas.common import SENTENCE_PATTERN, ConfirmRemoval, Label
from service.schemas.drift import Suspension
from service.schemas.recipe import (
    RecipeChange,
    RecipeDiff,
    RecipeDifference,
    RecipeHistory,
    RecipeRecord,
    RecipeRevert,
    Signature,
)
from service.schemas.violations import describe_violations, list_violations
from service.store.errors import RecipeConflict, RemovalNotConfirmed, StoreUnavailable, UnknownRevision
from service.store.records import RecipeRevision

router = APIRouter(prefix="/v1/products", tags=["recipes"])

JSON = "application/json"

_ETAG = {"ETag": {"description": "The revision; send it as `If-Match` with a change.", "schema": {"type": "string"}}}
_TOML_FILE = {TOML: {"schema": {"type": "string"}}}
_READABLE: dict[int | str, dict[str, Any]] = {200: {"headers": _ETAG, "content": _TOML_FILE}}

RevisionPath = Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of the revision.")]
IfMatch = Annotated[
    str | None, Header(pattern=r'^"?[0-9]{1,9}"?$', description="Revision that the change was made against.")
]


@dataclass(frozen=True)
class _Body:
    """A received body; it is parsed in the thread pool, because that may take long.

    Attributes:
        media_type: JSON or TOML.
        data: The body.
    """

    media_type: str
    data: bytes


async def _recipe_body(request: Request) -> _Body:
    media_type = require_media_type(request, (JSON, TOML))
    return _Body(media_type, await request.body())


@router.get(
    "/{product}/recipe",
    operation_id="get_recipe",
    summary="Get the recipe in force",
    response_model=RecipeRecord,
    responses={
        **_READABLE,
        **problem_responses(UnknownProduct, InvalidRequest, NotAcceptable, ProductNotReady, StoreUnavailable),
    },
)
@requires("inspect")
def read_recipe(
    request: Request, product: ProductPath, recipes: RecipesDep, drift: DriftDep, principal: PrincipalDep
) -> Response:
    """Return the recipe that applies to the next inspection; with `Accept: application/toml` as a file."""
    revision = recipes.current(product)
    suspension = suspension_for(drift.suspension(revision), principal.stations)
    return _response(revision, request.headers.get("accept"), suspension)


@router.put(
    "/{product}/recipe",
    operation_id="change_recipe",
    summary="Change the recipe",
    response_model=RecipeRecord,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A change as JSON, or a whole recipe as a TOML file.",
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/RecipeChange"}}} | _TOML_FILE,
        }
    },
    responses={
        200: {"headers": _ETAG},
        **problem_responses(
            UnknownProduct, UnknownProposal, BodyTooLarge, UnsupportedMediaType, InvalidRequest, InvalidRecipe,
            RecipeConflict, ProposalOutdated, ProductNotReady, RemovalNotConfirmed, ShuttingDown,
            StoreUnavailable,
        ),
    },
)  # fmt: skip
@limit_body(RECIPE)
@requires("engineer")
def change_recipe(
    product: ProductPath,
    body: Annotated[_Body, Depends(_recipe_body)],
    recipes: RecipesDep,
    drift: DriftDep,
    actor: ActorDep,
    author: Annotated[
        Label | None,
        Query(
            description="Person who imports a TOML file; overrides the author in the file. With authentication, the "
            "name of the key or account is recorded instead. As JSON: in the body."
        ),
    ] = None,
    reason: Annotated[
        str | None,
        Query(
            max_length=1000,
            pattern=SENTENCE_PATTERN,
            description="Reason for a change as TOML; overrides the reason in the file. As JSON: in the body.",
        ),
    ] = None,
    confirm_removal: Annotated[ConfirmRemoval, Query()] = None,
    if_match: IfMatch = None,
) -> Response:
    """Put a changed recipe in force from the next inspection on. Earlier revisions stay in the history.

    As JSON: values that the change does not contain stay as they are, at every depth. Thresholds are changed by
    `fail_threshold` and `review_threshold` (without a guarantee), by `target_false_reject_rate`, from which they are
    derived with the calibration card, or by `proposal_id`, from which they are derived with the proposal's good images.

    As TOML: a whole recipe, in the format of `GET` with `Accept: application/toml`. Values that the file does not
    contain get their defaults, except thresholds, which stay as they are. Thresholds are derived again from the rates
    in the file; if it was made for another bundle, with the calibration card of the active bundle. If the file contains
    the recipe in force, no new revision is made, and the response is the revision in force.

    The resulting recipe is validated as a whole. If it is not valid, nothing changes.
    """
    if body.media_type == JSON:
        _require_signature_in_body(author=author, reason=reason, confirm_removal=confirm_removal)
        change = validate_as(RecipeChange, body.data, "body")
        expected = _expected_revision(if_match, change.expected_revision)
        revision = recipes.change(product, change, actor, expected)
        return _response(revision, None, drift.suspension(revision))
    file = read_toml(body.data)
    # An authenticated author needs no other name; the one in the file may be that of the service.
    stated = author or file.author if actor.kind == "local" else None
    signature = _signature(stated, reason or file.reason)
    expected = _expected_revision(if_match, None)
    revision = recipes.import_file(product, file, signature, actor, expected, confirm_removal)
    return _response(revision, None, drift.suspension(revision))


@router.get(
    "/{product}/recipe/revisions",
    operation_id="list_recipe_revisions",
    summary="List the recipe's revisions",
    responses=problem_responses(UnknownProduct, InvalidRequest, StoreUnavailable),
)
@requires("inspect")
def list_revisions(
    product: ProductPath,
    recipes: RecipesDep,
    limit: Annotated[int, Query(ge=1, le=500, description="Maximum number of revisions.")] = 100,
) -> RecipeHistory:
    """Return the revisions with their authors, times and reasons, newest first."""
    return RecipeHistory(items=[to_recipe_record(revision) for revision in recipes.history(product, limit)])


@router.get(
    "/{product}/recipe/revisions/{revision:identifier}",
    operation_id="get_recipe_revision",
    summary="Get a revision of the recipe",
    response_model=RecipeRecord,
    responses={
        **_READABLE,
        **problem_responses(UnknownProduct, UnknownRevision, InvalidRequest, NotAcceptable, StoreUnavailable),
    },
)
@requires("inspect")
def read_revision(request: Request, product: ProductPath, revision: RevisionPath, recipes: RecipesDep) -> Response:
    """Return one revision; with `Accept: application/toml` as a file."""
    return _response(recipes.revision(product, revision), request.headers.get("accept"))


@router.get(
    "/{product}/recipe/revisions/{revision}/diff/{other}",
    operation_id="compare_recipe_revisions",
    summary="Compare two revisions of the recipe",
    responses=problem_responses(UnknownProduct, UnknownRevision, InvalidRequest, StoreUnavailable),
)
@requires("inspect")
def compare_revisions(
    product: ProductPath,
    revision: RevisionPath,
    other: Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of the revision to compare with.")],
    recipes: RecipesDep,
) -> RecipeDiff:
    """Return the values that changed from the first revision to the second."""
    found = recipes.compare(product, revision, other)
    return RecipeDiff(
        before=to_revision_facts(found.before),
        after=to_revision_facts(found.after),
        differences=[RecipeDifference(path=path, before=old, after=new) for path, old, new in found.values],
    )


@router.post(
    "/{product}/recipe/revisions/{revision}:revert",
    operation_id="revert_recipe",
    summary="Revert to an earlier revision of the recipe",
    response_model=RecipeRecord,
    responses={
        200: {"headers": _ETAG},
        **problem_responses(
            UnknownProduct, UnknownRevision, BodyTooLarge, InvalidRequest, InvalidRecipe, RecipeConflict,
            ProductNotReady, RemovalNotConfirmed, ShuttingDown, StoreUnavailable,
        ),
    },
)  # fmt: skip
@requires("engineer")
def revert_recipe(
    product: ProductPath,
    revision: RevisionPath,
    revert: RecipeRevert,
    recipes: RecipesDep,
    drift: DriftDep,
    actor: ActorDep,
    if_match: IfMatch = None,
) -> Response:
    """Put the values of an earlier revision in force again, as a new revision.

    If the revision was made for another bundle, its thresholds are derived again with the calibration card of the
    active bundle, and values on the other bundle's scale (the heatmap's scale, minimum peaks) get their defaults.
    Thresholds that were set by hand for another bundle are refused.
    """
    expected = _expected_revision(if_match, revert.expected_revision)
    reverted = recipes.revert(product, revision, revert, actor, expected)
    return _response(reverted, None, drift.suspension(reverted))


def _require_signature_in_body(**query: str | int | None) -> None:
    """Refuse a change as JSON with its author, reason or confirmation in the query, where they would be ignored.

    Raises:
        InvalidRequest: They are in the query.
    """
    message = "belongs into the body of a change as JSON; the query parameter is for TOML files"
    errors = [
        {"loc": ["query", name], "msg": message, "type": "invalid_query"}
        for name, value in query.items()
        if value is not None
    ]
    if errors:
        names = " and ".join(f"`{error['loc'][1]}`" for error in errors)
        raise InvalidRequest(
            f"{names} in the query are for TOML files. In a change as JSON, `author`, `reason` and `confirm_removal` "
            'belong into the body: {"author": "...", "reason": "...", ...}.',
            errors,
        )


def _signature(author: str | None, reason: str | None) -> Signature:
    try:
        return Signature.model_validate({"author": author, "reason": reason})
    except ValidationError as error:
        what = describe_violations(list_violations(error, Signature))
        raise InvalidRequest(
            f"The import has no valid author and reason: {what}. State them with the query parameters `author` and "
            "`reason`, or in the file."
        ) from error


def _expected_revision(if_match: str | None, stated: int | None) -> int | None:
    return stated if if_match is None else int(if_match.strip('"'))


def _response(revision: RecipeRevision, accept: str | None, suspension: Suspension | None = None) -> Response:
    """Return a revision in the requested format."""
    media_type = negotiate(accept, (JSON, TOML))
    if media_type == TOML:
        content = write_toml(to_revision_facts(revision).model_dump(), revision.recipe)
    else:
        content = to_recipe_record(revision, suspension).model_dump_json()
    return Response(content, headers={"ETag": f'"{revision.revision}"', "Vary": "Accept"}, media_type=media_type)
