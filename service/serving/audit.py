"""The audit log in a running service: its entries page by page, and its newest hash, which is logged periodically.

The end of a chain of hashes can be cut off without breaking the chain. Therefore its newest hash is written to the log
of the service, which is kept elsewhere: `plumbline audit verify --expect-head HASH` finds out whether the entry with
this hash still exists.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import structlog
from sqlalchemy import Engine

from service.inspection.runtime.threads import run_in_background
from service.monitoring.metrics import Metrics
from service.serving.audit_export import ExportFormat, export_lines
from service.serving.errors import RecordsBusy
from service.serving.pagination import Page, read_page
from service.store.audit import (
    GENESIS,
    AuditFilter,
    AuditHead,
    AuditRecord,
    audit_hash,
    audit_head,
    list_audit,
    read_audit,
)
from service.store.audit_chain import ChainReport, verify_chain
from service.store.errors import StoreUnavailable

log = structlog.get_logger(__name__)
_STOP_S = 5.0
_LINES_AT_ONCE = 200


class AuditService:
    """Reads the audit log. All methods block and must not be called from the event loop.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._whole = threading.Lock()

    @contextmanager
    def reading_everything(self) -> Iterator[None]:
        """Reserve the reading of the whole audit log for the block; one at a time.

        Raises:
            RecordsBusy: Another request reads it.
        """
        if not self._whole.acquire(blocking=False):
            raise RecordsBusy(is_own=False)
        try:
            yield
        finally:
            self._whole.release()

    def verify(self) -> ChainReport:
        """Verify that no entry was changed, removed or inserted.

        Without an earlier hash, it is not noticed if the newest entries were removed.

        Raises:
            RecordsBusy: Another request reads the whole audit log.
            StoreUnavailable: The database cannot be used.
        """
        with self.reading_everything():
            return run_in_background(lambda: verify_chain(read_audit(self._engine)))

    def export(self, which: AuditFilter, form: ExportFormat) -> Iterator[bytes]:
        """Yield entries as a file, oldest first. Use it within `reading_everything`.

        Args:
            which: The conditions.
            form: Format of the file.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        lines = export_lines(read_audit(self._engine, which), form)
        while piece := "".join(islice(lines, _LINES_AT_ONCE)):
            yield piece.encode()

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
