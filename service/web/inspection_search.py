"""The search form of the inspections: its fields, local times, and the conditions that follow from them."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from pydantic import BaseModel

from service.schemas.records import InspectionQuery
from service.web.search import Search, Text, read_search

PAGE = 50


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


def read_inspection_search(form: SearchForm, zone: ZoneInfo) -> Search[InspectionQuery]:
    """Return the conditions of a form, with local times in a time zone."""
    return read_search(form, {"before", "after"}, InspectionQuery, zone)
