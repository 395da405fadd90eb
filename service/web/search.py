"""Searches: the fields of a form in the URL, and the conditions of the API that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from pydantic import BaseModel, StringConstraints, ValidationError

from service.schemas.violations import list_violations
from service.web.local_times import read_period

Text = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]
"""A field of a search form as the browser sends it. An empty field is no condition."""
_NUMBERS = frozenset({"min_score", "max_score"})
QueryT = TypeVar("QueryT", bound=BaseModel)


@dataclass(frozen=True)
class Search(Generic[QueryT]):
    """The conditions of a search.

    Attributes:
        values: The fields of the form that are not empty, with local times.
        query: The conditions; None if a field is not valid.
        errors: Violation by the name of the field that is not valid; the empty name for the form as a whole.
    """

    values: Mapping[str, str]
    query: QueryT | None
    errors: Mapping[str, Mapping[str, Any]]

    def url(self, path: str, **more: str) -> str:
        """Return the URL of a page with the same conditions.

        Args:
            path: Its path.
            **more: More parameters, such as `before`.
        """
        parameters = {**self.values, **more}
        return f"{path}?{urlencode(parameters)}" if parameters else path

    def api_url(self, path: str, **more: str) -> str:
        """Return the URL of the JSON API with the same conditions, which has times with a zone.

        Args:
            path: Its path.
            **more: More parameters, such as `format`.
        """
        assert self.query is not None
        return f"{path}?{urlencode({**self.query.model_dump(mode='json', exclude_none=True), **more})}"


def read_search(form: BaseModel, positions: set[str], query: type[QueryT], zone: ZoneInfo) -> Search[QueryT]:
    """Return the conditions of a form.

    Args:
        form: The fields.
        positions: Names of the fields that are no conditions but begin the page.
        query: The conditions of the API.
        zone: Time zone of local times.
    """
    given = {name: value for name, value in form.model_dump(exclude=positions).items() if value}
    shown, stated = read_period(given, zone)
    for name in _NUMBERS.intersection(stated):
        stated[name] = stated[name].replace(",", ".")  # as the page writes numbers in German
    try:
        return Search(shown, query.model_validate(stated), {})
    except ValidationError as error:
        found = list_violations(error, query)
        return Search(shown, None, {str(next(iter(one["loc"]), "")): one for one in found})
