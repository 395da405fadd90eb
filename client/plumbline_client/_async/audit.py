"""The audit log: who changed what, and its newest hash."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import Call, given
from plumbline_client.schemas.audit import AuditEntryRecord, AuditHeadRecord, AuditPage, AuditVerification


class AsyncAuditCalls(AsyncConnection):
    """The part of `AsyncClient` that deals with the audit log. It needs the scope `admin`."""

    async def audit_page(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        product: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> AuditPage:
        """Return one page of the audit log, newest first.

        Args:
            actor: Only changes by the author with this name or id.
            action: Only changes of this kind, for instance `recipe:put`.
            product: Only changes of this product.
            since: Only changes from this time on, with time zone.
            until: Only changes before this time, with time zone.
            cursor: `next_cursor` of the previous page.
            limit: Largest number of entries on the page.
        """
        filters = {"actor": actor, "action": action, "product": product, "since": since, "until": until}
        params = {**given({**filters, "cursor": cursor}), "limit": limit}
        return await self._load(AuditPage, Call("GET", "/v1/audit", params))

    async def audit_entries(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        product: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[AuditEntryRecord]:
        """Iterate over the audit log, newest first, page by page. The arguments are those of `audit_page`."""
        cursor: str | None = None
        while True:
            page = await self.audit_page(
                actor=actor, action=action, product=product, since=since, until=until, cursor=cursor
            )
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    async def audit_head(self) -> AuditHeadRecord:
        """Return number and hash of the newest entry of the audit log."""
        return await self._load(AuditHeadRecord, Call("GET", "/v1/audit:head"))

    async def verify_audit(self) -> AuditVerification:
        """Verify that no entry of the audit log was changed, removed or inserted."""
        return await self._load(AuditVerification, Call("GET", "/v1/audit:verify"))
