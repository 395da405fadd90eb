"""The search form of the audit log."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.common import Label, UtcDatetime
from service.store.audit import AuditAction
from service.web.search import Search, Text, read_search


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


def read_audit_search(form: AuditForm, zone: ZoneInfo) -> Search[AuditQuery]:
    """Return the conditions of a form, with local times in a time zone."""
    return read_search(form, {"cursor"}, AuditQuery, zone)
