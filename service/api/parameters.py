"""Path parameters and metadata of requests that several routes share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import Header, Path, Request
from pydantic import ValidationError
from starlette.convertors import StringConvertor, register_url_convertor

from service.access.principal import Principal
from service.access.restrictions import require_product, station_of
from service.api.http.access import principal_of
from service.api.http.middleware import TRACEPARENT
from service.api.http.problems import request_id
from service.errors import InvalidRequest
from service.schemas.common import KEY_PATTERN, Name, PartFields
from service.schemas.records import InspectionQuery, split_decisions, split_ids
from service.schemas.violations import describe_violations, list_violations
from service.serving.records import PartRecord
from service.store.inspection_filter import InspectionFilter


class _Identifier(StringConvertor):
    """A path segment without a colon, which separates an id from an action, as in `{inspection_id}:replay`.

    Without it the path of an action would also match the route that reads the resource, so that a wrong method
    returned 404 instead of 405.
    """

    regex = "[^/:]+"


register_url_convertor("identifier", _Identifier())

ProductPath = Annotated[Name, Path(description="Name of the product.")]
VersionPath = Annotated[Name, Path(description="The bundle's version.")]
InspectionPath = Annotated[Name, Path(description="Id of the inspection, a UUIDv7.")]


def part_record(request: Request, part: PartFields, fields: Mapping[str, str] | None = None) -> PartRecord:
    """Return the metadata of the part and of the request.

    Args:
        request: The request.
        part: Metadata in the query.
        fields: Metadata in the form; it overrides the query.

    Raises:
        InvalidRequest: A form field is unknown or not valid.
        NotPermitted: The principal may not use the station.
    """
    if fields:
        try:
            part = PartFields.model_validate(part.model_dump(exclude_none=True) | dict(fields))
        except ValidationError as error:
            violations = list_violations(error, PartFields)
            what = describe_violations(violations)
            raise InvalidRequest(f"A form field is not valid: {what}.", violations) from error
    return PartRecord(
        part_id=part.part_id,
        station=station_of(principal_of(request), part.station),
        lot=part.lot,
        captured_at=part.captured_at,
        request_id=request_id(request.scope),
        traceparent=request.scope.get(TRACEPARENT),
    )


IdempotencyHeader = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=KEY_PATTERN,
        description="Key of this request, chosen by the client: a request that is sent again with the same key is "
        "inspected once.",
    ),
]


def inspection_filter(query: InspectionQuery, principal: Principal) -> InspectionFilter:
    """Return the conditions of a query, limited to what the principal may use.

    Raises:
        NotPermitted: The query names a product that the principal may not use.
    """
    if query.product is not None:
        require_product(principal, query.product)
    return InspectionFilter(
        product=query.product,
        decisions=() if query.decision is None else split_decisions(query.decision),
        part_id=query.part_id,
        since=query.since,
        until=query.until,
        station=query.station,
        lot=query.lot,
        min_score=query.min_score,
        max_score=query.max_score,
        ids=None if query.ids is None else split_ids(query.ids),
        label=query.label,
        permitted_products=principal.products,
        permitted_stations=principal.stations,
    )
