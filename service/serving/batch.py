"""Several images one after the other: each is inspected like a single one, and the answers come in their order.

Only a few are in the house at a time. The next one is not even read before an answer was taken, so neither a sender who
is faster than the graph nor one who does not read the answers uses up memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from service.errors import PlumblineError, QueueFull
from service.inspection.decoding.pixel_formats import RawLayout
from service.serving.inspections import InspectionLine
from service.serving.records import PartRecord
from service.store.records import InspectionRecord

# Enough to read one image while another is judged and a third is stored; each may be as large as a body may be.
IN_FLIGHT = 4
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Frame:
    """One image of several.

    Attributes:
        data: The encoded image, or a camera buffer.
        part: What the sender says about it.
        label: What the sender calls it; only ever given back.
        layout: Of the camera buffer.
        refusal: Why it cannot be inspected; then `data` is empty.
    """

    data: bytes
    part: PartRecord
    label: str | None = None
    layout: RawLayout | None = None
    refusal: PlumblineError | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one image: a stored inspection, or why there is none."""

    frame: Frame
    row: InspectionRecord | None = None
    error: Exception | None = None


async def inspect_in_order(
    line: InspectionLine, product: str, frames: AsyncIterator[Frame], in_flight: int = IN_FLIGHT
) -> AsyncGenerator[Outcome]:
    """Inspect images as they come; one that fails, fails alone.

    Args:
        line: Inspects.
        product: What the images show.
        frames: The images. What it raises is raised here, after every image before was answered.
        in_flight: Images that are read and not answered yet, at most.
    """
    places = asyncio.Semaphore(in_flight)
    started: asyncio.Queue[asyncio.Task[Outcome] | None] = asyncio.Queue()

    async def feed() -> None:
        try:
            while True:
                await places.acquire()
                frame = await anext(frames, None)
                if frame is None:
                    return
                started.put_nowait(asyncio.create_task(_inspect(line, product, frame)))
        finally:
            started.put_nowait(None)

    feeder = asyncio.create_task(feed())
    waiting: list[asyncio.Task[Outcome]] = []
    try:
        while (task := await started.get()) is not None:
            waiting = [task]
            yield await task
            waiting = []
            places.release()
        await feeder
    finally:
        # Where nobody wants the answers any more, what was begun is still finished and stored.
        feeder.cancel()
        while not started.empty():
            if (left := started.get_nowait()) is not None:
                waiting.append(left)
        await asyncio.gather(feeder, *waiting, return_exceptions=True)


async def _inspect(line: InspectionLine, product: str, frame: Frame) -> Outcome:
    try:
        if frame.refusal is not None:
            raise frame.refusal
        async with _place(line):
            row = await line.inspect(product, frame.data, frame.part, frame.layout)
    except Exception as error:  # noqa: BLE001 - it belongs to this image; whoever answers tells the kinds apart
        if isinstance(error, PlumblineError):
            line.metrics.count_refusal(error)
        return Outcome(frame, error=error)
    return Outcome(frame, row)


@asynccontextmanager
async def _place(line: InspectionLine) -> AsyncIterator[None]:
    """A place in the house. A sender of many images waits for one as long as an image may wait for its turn."""
    give_up = time.monotonic() + line.settings.queue_deadline_s
    with ExitStack() as places:
        while True:
            try:
                places.enter_context(line.admission.enter())
                break
            except QueueFull:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_PAUSE_S)
        yield
