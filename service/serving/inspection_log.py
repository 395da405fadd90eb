"""The log line of an inspection."""

from __future__ import annotations

import structlog

from service.store.records import InspectionRecord

log = structlog.get_logger(__name__)


def log_inspection(record: InspectionRecord, duration_s: float) -> None:
    """Log one line at level `debug`.

    The threads of inspections have no request context, so the id of the request is given.

    Args:
        record: The stored inspection.
        duration_s: Seconds from the complete receipt of the image to its stored verdict.
    """
    log.debug(
        "inspected",
        request_id=record.request_id,
        inspection=record.id,
        product=record.product,
        decision=record.decision,
        score=record.score,
        duration_ms=round(1000 * duration_s, 1),
    )
