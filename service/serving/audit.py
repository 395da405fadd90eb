"""The audit log in a running service: its entries page by page, and its newest hash, which is logged periodically.

The end of a chain of hashes can be cut off without breaking the chain. Therefore its newest hash is written to the log
of the service, which is kept elsewhere: `plumbline audit verify --expect-head HASH` finds out whether the entry with
this hash still exists.
"""

from __future__ import annotations

import threading

import structlog
from sqlalchemy import Engine

from service.monitoring.metrics import Metrics
from service.serving.pagination import Page, read_page
from service.store.audit import GENESIS, AuditFilter, AuditHead, AuditRecord, audit_hash, audit_head, list_audit
from service.store.errors import StoreUnavailable

log = structlog.get_logger(__name__)
_STOP_S = 5.0


class AuditService:
    """Reads the audit log. All methods block and must not be called from the event loop.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def search(self, which: AuditFilter, before: int | None, limit: int) -> Page[AuditRecord]:
        """Return a page of entries, newest first.

        Args:
            which: The conditions.
            before: Return only entries with a smaller id.
            limit: Maximum number of entries.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        return read_page(lambda count: list_audit(self._engine, which, before=before, limit=count), limit)

    def head(self) -> AuditHead:
        """Return the newest entry's id and hash; 0 and `GENESIS` if there is no entry.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        return audit_head(self._engine) or AuditHead(0, GENESIS)


class AuditHeadReporter:
    """Writes the newest hash of the audit log to the log of the service, and checks that the previous one still exists.

    Args:
        engine: The database.
        metrics: Exposes the number of entries.
        interval_s: Seconds between two reports.
    """

    def __init__(self, engine: Engine, metrics: Metrics, interval_s: float) -> None:
        self._engine = engine
        self._metrics = metrics
        self._interval_s = interval_s
        self._service = AuditService(engine)
        self._last: AuditHead | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="audit-head", daemon=True)

    def start(self) -> None:
        """Start the thread. It reports at once, and then periodically."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. One that waits for the database is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def report(self) -> None:
        """Log the newest hash, and an error if the entry that was the newest one before is no longer in the log.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        head, last = self._service.head(), self._last
        if last is not None and last.id > 0 and audit_hash(self._engine, last.id) != last.hash:
            log.error("audit log was changed", entry=last.id, expected_hash=last.hash, newest_entry=head.id)
            self._metrics.storage.audit_violations.inc()
        self._metrics.storage.audit_entries.set(head.id)
        log.info("audit log", entries=head.id, head=head.hash)
        self._last = head

    def _work(self) -> None:
        while True:
            try:
                self.report()
            except StoreUnavailable as error:
                log.warning("newest hash of the audit log not read", reason=error.detail)
            except Exception:  # the thread must survive any error
                log.exception("newest hash of the audit log not reported")
            if self._stop.wait(self._interval_s):
                return
