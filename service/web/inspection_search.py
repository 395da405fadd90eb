"""The search form of the inspections: its fields, local times, and the conditions that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from pydantic import BaseModel, StringConstraints, ValidationError

from service.schemas.records import InspectionQuery
from service.schemas.violations import list_violations

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
    stated: dict[str, str] = dict(given)
    for name in ("since", "until"):
        moment = _parse(given.get(name, ""), zone, 0 if name == "since" else 1)
        if moment is not None:
            stated[name] = moment.isoformat()
            given[name] = moment.astimezone(zone).replace(tzinfo=None).isoformat(timespec="minutes")
    try:
        return Search(given, InspectionQuery.model_validate(stated), {})
    except ValidationError as error:
        found = list_violations(error, InspectionQuery)
        return Search(given, None, {str(next(iter(one["loc"]), "")): str(one["msg"]) for one in found})


def _parse(text: str, zone: ZoneInfo, fold: Literal[0, 1]) -> datetime | None:
    """Return a local time or a time with a zone; None if it is neither.

    Of a local time that occurs twice, because daylight saving time ends, the start of a period is the first one and its
    end the second one.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone, fold=fold)
