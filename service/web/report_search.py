"""The choice of a report on its page: a named period or local times, and a station."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from pydantic import BaseModel, StringConstraints, ValidationError

from service.schemas.report import ReportQuery
from service.schemas.violations import list_violations
from service.serving.periods import PeriodName
from service.web.local_times import read_period

Text = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]
BoundsOf = Callable[[PeriodName], tuple[datetime, datetime | None]]


class ReportForm(BaseModel):
    """The fields of the form as the browser sends them. Without a time, the period is the named one."""

    period: PeriodName = "shift"
    since: Text = ""
    until: Text = ""
    station: Text = ""


@dataclass(frozen=True)
class ReportChoice:
    """What a report is about.

    Attributes:
        period: The named period; None if times are given.
        values: The fields of the form that are not empty, with local times.
        query: The query of the report; None if a field is not valid.
        errors: Violation by the name of the field that is not valid; the empty name for the form as a whole.
    """

    period: PeriodName | None
    values: Mapping[str, str]
    query: ReportQuery | None
    errors: Mapping[str, Mapping[str, Any]]

    def url(self, path: str) -> str:
        """Return the URL of a page with the same choice."""
        return self.url_at(path, self.values.get("station"))

    def url_of(self, path: str, period: PeriodName) -> str:
        """Return the URL of a page with another period and the same station."""
        station = {"station": self.values["station"]} if "station" in self.values else {}
        return f"{path}?{urlencode({'period': period} | station)}"

    def url_at(self, path: str, station: str | None) -> str:
        """Return the URL of a page with the same period and another station; None for all stations."""
        times = {name: value for name, value in self.values.items() if name != "station"}
        named = times if self.period is None else {"period": self.period}
        return f"{path}?{urlencode(named if station is None else {**named, 'station': station})}"


def read_choice(form: ReportForm, zone: ZoneInfo, bounds_of: BoundsOf) -> ReportChoice:
    """Return what the fields of the form mean.

    Args:
        form: The fields.
        zone: Time zone of local times.
        bounds_of: Returns when a named period begins and ends; its end is None for now.
    """
    given = {name: value for name, value in form.model_dump(exclude={"period"}).items() if value}
    shown, stated = read_period(given, zone)
    if "since" in given or "until" in given:
        period = None
    else:
        period = form.period
        since, until = bounds_of(period)
        stated |= {"since": since.isoformat()} | ({} if until is None else {"until": until.isoformat()})
    try:
        return ReportChoice(period, shown, ReportQuery.model_validate(stated), {})
    except ValidationError as error:
        found = list_violations(error, ReportQuery)
        return ReportChoice(period, shown, None, {str(next(iter(one["loc"]), "")): one for one in found})
