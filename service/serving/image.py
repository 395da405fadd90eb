"""Images to inspect, as clients send them."""

from __future__ import annotations

from dataclasses import dataclass

from service.inspection.decoding.pixel_formats import RawLayout
from service.recipes.recipe import Recipe
from service.serving.records import PartRecord


@dataclass(frozen=True)
class StatedBuffer:
    """What a client states about a camera buffer. The recipe that judges the image completes it.

    Attributes:
        pixel_format: PFNC name of the pixel format.
        width: Width in pixels.
        height: Height in pixels.
        stride: Distance between rows in bytes.
    """

    pixel_format: str | None = None
    width: int | None = None
    height: int | None = None
    stride: int | None = None

    def layout(self, recipe: Recipe) -> RawLayout | None:
        """Return the layout of the buffer; None if nothing is stated, because then the image is an encoded one.

        Raises:
            UnknownPixelFormat, PixelMismatch, InvalidRequest: See `PixelSetting.layout`.
        """
        return recipe.pixels.layout(self.pixel_format, self.width, self.height, self.stride)


@dataclass(frozen=True)
class RequestKey:
    """The idempotency key of a request.

    Attributes:
        principal: Id of the principal that sent it. Keys of different principals are independent.
        key: The key that the client chose.
    """

    principal: str
    key: str


@dataclass(frozen=True)
class Image:
    """An image to inspect.

    Attributes:
        data: The encoded image, or a camera buffer.
        part: Metadata sent by the client.
        buffer: What the client states about a camera buffer; nothing for an encoded image.
        key: Idempotency key; None if the client sent none.
        version: Version of the bundle that must judge the image; None for the active one, whichever it is.
        arrived: When the first byte of its request arrived, on the clock `time.perf_counter`; None if the image is one
            of several.
    """

    data: bytes
    part: PartRecord
    buffer: StatedBuffer = StatedBuffer()
    key: RequestKey | None = None
    version: str | None = None
    arrived: float | None = None
