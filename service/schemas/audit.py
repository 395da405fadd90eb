"""Responses about the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from service.schemas.common import ResponseModel


class AuditEntryRecord(ResponseModel):
    """One change: who made it, when, from where, and what it was before and after."""

    id: int = Field(description="Number of the entry; the first one is 1, and none is missing.")
    created_at: datetime
    actor_kind: str = Field(
        description="`key` or `account`: how the author was authenticated. `local`: there was no authentication. "
        "`anonymous`: an attempt to log in. `command-line`: a command on the machine of the service. "
        "`service`: the service itself made the change."
    )
    actor_id: str = Field(description="Id of the key or account; for a command, its user and host.")
    actor: str = Field(description="Name of the author.")
    address: str | None = Field(description="IP address of the client; for a command, the name of its host.")
    request_id: str | None = Field(description="`X-Request-ID` of the request.")
    action: str = Field(examples=["recipe:put"], description="Kind of change.")
    product: str | None
    object: str | None = Field(description="What else the change concerns: a version, a revision, the id of a key.")
    before: Any = Field(description="The values before the change; null if there were none.")
    after: Any = Field(description="The values after the change; null if there are none.")
    note: str = Field(description="The reason in the author's words.")
    previous_hash: str = Field(description="Hash of the entry before this one; zeros for the first one.")
    hash: str = Field(
        description="SHA-256 of the canonical JSON (sorted names, no spaces) of all other members of the entry."
    )


class AuditPage(ResponseModel):
    """Entries of the audit log, newest first."""

    items: list[AuditEntryRecord]
    next_cursor: str | None = Field(description="Value of `cursor` for the next page; null on the last page.")


class AuditHeadRecord(ResponseModel):
    """The newest entry of the audit log."""

    id: int = Field(description="Its number, which is the number of entries; 0 if there is none.")
    hash: str = Field(description="Its hash. `plumbline audit verify --expect-head` checks that it still exists.")


class BrokenAuditEntry(ResponseModel):
    """The first entry of the audit log that is not as it was appended."""

    id: int
    reason: str = Field(description="What differs.")


class AuditVerification(ResponseModel):
    """The result of a verification of the audit log."""

    intact: bool
    entries: int = Field(description="Number of entries that are right, from the first one on.")
    head: str | None = Field(description="Hash of the last of them; null if there is none.")
    broken: BrokenAuditEntry | None = Field(description="The first entry that is broken; null if all are right.")
