"""Several images of one request or stream, inspected like single ones, with the results in the order of the images.

Only a few images are in flight at a time. The next image is not read before a result was consumed, so memory stays
bounded if the sender is faster than the graph or does not read the results.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace

from service.errors import PlumblineError
from service.serving.image import Image, RequestKey
from service.serving.inspections import InspectionService
from service.serving.memory_budget import Reservation
from service.store.records import InspectionRecord

# Enough to receive one image while another is judged and a third is stored. Each may be as large as a body may be.
IN_FLIGHT = 4


@dataclass(frozen=True)
class Frame:
    """One image of several.

    Attributes:
        image: The image; its data is empty if there is an error.
        label: Name given by the sender. It is returned with the result and not used otherwise.
        error: Why the image cannot be inspected, or None.
        memory: Memory that is reserved for the image, or None.
    """

    image: Image
    label: str | None = None
    error: PlumblineError | None = None
    memory: Reservation | None = None

    def release(self) -> None:
        """Give the memory of the image back, because it is no longer needed."""
        if self.memory is not None:
            self.memory.release()


@dataclass(frozen=True)
class Outcome:
    """The result of one image: the stored inspection, or the error that prevented it. The frame has no image."""

    frame: Frame
    result: InspectionRecord | Exception


async def with_keys(frames: AsyncGenerator[Frame], key: RequestKey) -> AsyncGenerator[Frame]:
    """Give every image the idempotency key of its position in the request.

    The space cannot be part of a key that a client sends, so the key of no other request is the same.

    Args:
        frames: The images.
        key: The key of the request.
    """
    async with aclosing(frames):
        index = 0
        async for frame in frames:
            numbered = replace(key, key=f"{key.key} {index}")
            yield replace(frame, image=replace(frame.image, key=numbered))
            index += 1


async def inspect_in_order(
    inspections: InspectionService, product: str, frames: AsyncIterator[Frame], client: str, in_flight: int = IN_FLIGHT
) -> AsyncGenerator[Outcome]:
    """Inspect images as they arrive. An error of one image does not affect the others.

    Args:
        inspections: Inspects the images.
        product: Name of the product.
        frames: The images. An exception raised by this iterator is raised here, after the results of all images
            before it.
        client: Identity of the client.
        in_flight: Maximum number of images that are received and have no consumed result.
    """
    slots = asyncio.Semaphore(in_flight)
    started: asyncio.Queue[asyncio.Task[Outcome] | None] = asyncio.Queue()

    async def feed() -> None:
        try:
            while True:
                await slots.acquire()
                frame = await anext(frames, None)
                if frame is None:
                    return
                started.put_nowait(asyncio.create_task(_inspect(inspections, product, frame, client)))
        finally:
            started.put_nowait(None)

    feeder = asyncio.create_task(feed())
    pending: list[asyncio.Task[Outcome]] = []
    try:
        while (task := await started.get()) is not None:
            pending = [task]
            yield await task
            pending = []
            slots.release()
        await feeder
    finally:
        # If the consumer stops early, inspections in flight are still completed and stored.
        feeder.cancel()
        while not started.empty():
            if (remaining := started.get_nowait()) is not None:
                pending.append(remaining)
        await asyncio.gather(feeder, *pending, return_exceptions=True)


async def _inspect(inspections: InspectionService, product: str, frame: Frame, client: str) -> Outcome:
    done = replace(frame, image=replace(frame.image, data=b""))
    try:
        if frame.error is not None:
            raise frame.error
        record = await inspections.inspect_when_admitted(product, frame.image, client)
    except Exception as error:  # noqa: BLE001 - the error belongs to this image; the API distinguishes the kinds
        if isinstance(error, PlumblineError):
            inspections.count_refusal(error, frame.image.part.request_id)
        return Outcome(done, error)
    finally:
        frame.release()
    return Outcome(done, record)
