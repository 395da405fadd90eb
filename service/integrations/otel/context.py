"""W3C trace context of inspections.

The ids of an inspection's span are derived from the inspection's id, so that they need not be stored: messages that are
sent later, also by another process, continue the same trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from service.store.records import InspectionRecord

SAMPLED = 1


@dataclass(frozen=True)
class TraceContext:
    """The trace that a span belongs to.

    Attributes:
        trace_id: 128-bit id of the trace.
        span_id: 64-bit id of the span.
        flags: Trace flags; bit 0 is set if the trace is recorded.
    """

    trace_id: int
    span_id: int
    flags: int

    @property
    def is_sampled(self) -> bool:
        """Whether the trace is recorded."""
        return bool(self.flags & SAMPLED)

    def header(self) -> str:
        """Return the value of the header `traceparent`."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"


def parent_of(record: InspectionRecord) -> TraceContext | None:
    """Return the trace context of the request; None if it had none. The value was checked when it was received."""
    if record.traceparent is None:
        return None
    _, trace_id, span_id, flags = record.traceparent.split("-")[:4]
    return TraceContext(int(trace_id, 16), int(span_id, 16), int(flags, 16))


def context_of(record: InspectionRecord, *, is_sampled: bool) -> TraceContext:
    """Return the trace context of the inspection's own span.

    Args:
        record: The inspection.
        is_sampled: Whether its span is recorded.
    """
    own, parent = UUID(record.id).int, parent_of(record)
    # The low 64 bits of a UUID are never zero, which an id of a span must not be.
    return TraceContext(own if parent is None else parent.trace_id, own & (2**64 - 1), SAMPLED if is_sampled else 0)
