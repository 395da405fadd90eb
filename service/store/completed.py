"""What is reported about an inspection after it was stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.store.records import InspectionRecord


@dataclass(frozen=True)
class Completed:
    """A stored inspection and its times.

    Attributes:
        record: The inspection.
        arrived: When the first byte of the request arrived; None if the image is one of several of a request or stream.
            On the clock `time.perf_counter`, like `submitted`.
        submitted: When the image was received completely.
        duration_s: Seconds from `submitted` until the inspection was stored.
        timings_s: Seconds by stage: decode, preprocess, queue, infer, postprocess, store.
        stored_ns: When the inspection was stored, in nanoseconds since 1970.
    """

    record: InspectionRecord
    arrived: float | None
    submitted: float
    duration_s: float
    timings_s: Mapping[str, float]
    stored_ns: int


Listener = Callable[[Completed], None]
"""Is called on the thread of the inspection, before the response is sent. It must return at once."""

PartIds = Callable[[str, str | None], str | None]
"""Returns the part id that is announced for the next image of a product and a station, or None."""
