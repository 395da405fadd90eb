"""The search form of the inspections: its fields, local times, and the conditions that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from pydantic import BaseModel, StringConstraints, ValidationError

from service.schemas.records import InspectionQuery
from service.schemas.violations import list_violations
from service.web.local_times import read_period

PAGE = 50
Text = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]


class SearchForm(BaseModel):
    """The fields of the form as the browser sends them. An empty field is no condition.

    `since` and `until` are local times; a time with a zone is accepted, too. `before` and `after` are ids that begin
    the page.
    """

    product: Text = ""
    station: Text = ""
    lot: Text = ""
    part_id: Text = ""
    decision: Text = ""
    label: Text = ""
    since: Text = ""
    until: Text = ""
    min_score: Text = ""
    max_score: Text = ""
    before: Text = ""
    after: Text = ""


@dataclass(frozen=True)
class Search:
    """The conditions of a search.

    Attributes:
        values: The fields of the form that are not empty, with local times.
        query: The conditions; None if a field is not valid.
        errors: Text by the name of the field that is not valid; the empty name for the form as a whole.
    """

    values: Mapping[str, str]
    query: InspectionQuery | None
    errors: Mapping[str, str]

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


def read_search(form: SearchForm, zone: ZoneInfo) -> Search:
    """Return the conditions of a form.

    Args:
        form: The fields.
        zone: Time zone of local times.
    """
    given = {name: value for name, value in form.model_dump(exclude={"before", "after"}).items() if value}
    shown, stated = read_period(given, zone)
    for name in {"min_score", "max_score"}.intersection(stated):
        stated[name] = stated[name].replace(",", ".")  # as the page writes numbers in German
    try:
        return Search(shown, InspectionQuery.model_validate(stated), {})
    except ValidationError as error:
        found = list_violations(error, InspectionQuery)
        return Search(shown, None, {str(next(iter(one["loc"]), "")): str(one["msg"]) for one in found})
