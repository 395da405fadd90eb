"""The search form of the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from service.schemas.common import Label, UtcDatetime
from service.schemas.violations import list_violations
from service.store.audit import AuditAction
from service.web.local_times import read_period

Text = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]


class AuditForm(BaseModel):
    """The fields of the form as the browser sends them. An empty field is no condition."""

    actor: Text = ""
    action: Text = ""
    product: Text = ""
    since: Text = ""
    until: Text = ""
    cursor: int | None = Field(default=None, ge=1, le=2**31 - 1)


class AuditQuery(BaseModel):
    """Conditions on the entries of the audit log, as `GET /v1/audit` has them."""

    model_config = ConfigDict(extra="forbid")

    actor: Label | None = None
    action: AuditAction | None = None
    product: Label | None = None
    since: UtcDatetime | None = None
    until: UtcDatetime | None = None


@dataclass(frozen=True)
class AuditSearch:
    """The conditions of a search.

    Attributes:
        values: The fields of the form that are not empty, with local times.
        query: The conditions; None if a field is not valid.
        errors: Text by the name of the field that is not valid.
    """

    values: Mapping[str, str]
    query: AuditQuery | None
    errors: Mapping[str, str]

    def url(self, path: str, **more: str) -> str:
        """Return the URL of a page with the same conditions and more parameters."""
        parameters = {**self.values, **more}
        return f"{path}?{urlencode(parameters)}" if parameters else path

    def api_url(self, path: str, **more: str) -> str:
        """Return the URL of the JSON API with the same conditions and more parameters."""
        assert self.query is not None
        return f"{path}?{urlencode({**self.query.model_dump(mode='json', exclude_none=True), **more})}"


def read_audit_search(form: AuditForm, zone: ZoneInfo) -> AuditSearch:
    """Return the conditions of a form.

    Args:
        form: The fields.
        zone: Time zone of local times.
    """
    given = {name: value for name, value in form.model_dump(exclude={"cursor"}).items() if value}
    shown, stated = read_period(given, zone)
    try:
        return AuditSearch(shown, AuditQuery.model_validate(stated), {})
    except ValidationError as error:
        found = list_violations(error, AuditQuery)
        return AuditSearch(shown, None, {str(next(iter(one["loc"]), "")): str(one["msg"]) for one in found})
