"""Pixel formats of camera buffers by their PFNC names, buffer layouts, and rules for the meaning of samples.

Names and layouts follow the GenICam Pixel Format Naming Convention (PFNC): `Mono12` stores one sample in two bytes,
little endian; `Mono12p` is a stream of bits, least significant bit first; `Mono12Packed` is the older format of GigE
Vision with two samples in three bytes. This module does not import OpenCV, because recipes use its names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.errors import InvalidRequest
from service.inspection.errors import UnknownPixelFormat

RAW_MEDIA_TYPE = "application/octet-stream"
_MIN_BAYER = 3  # colours are interpolated from neighbours on both sides


@dataclass(frozen=True)
class PixelFormat:
    """How one PFNC format stores its samples.

    Attributes:
        colour: "mono", "rgb", "bgr", or the Bayer phase: the colours of the first two samples.
        bits: Significant bits of a sample.
        packing: "bytes" and "words" store every sample in its own bytes, "lsb" is PFNC's stream of bits, "gige" stores
            two samples in three bytes as GigE Vision does.
    """

    colour: Literal["mono", "rgb", "bgr", "RG", "GR", "GB", "BG"]
    bits: int
    packing: Literal["bytes", "words", "lsb", "gige"]

    @property
    def is_bayer(self) -> bool:
        """Return whether the buffer is a Bayer mosaic."""
        return self.colour in ("RG", "GR", "GB", "BG")

    @property
    def bits_per_pixel(self) -> int:
        """Return the number of bits that a pixel takes in a line."""
        by_packing = {"bytes": 8, "words": 16, "lsb": self.bits, "gige": 12}
        return by_packing[self.packing] * (3 if self.colour in ("rgb", "bgr") else 1)


def _sensor_formats(name: str, colour: Literal["mono", "RG", "GR", "GB", "BG"]) -> dict[str, PixelFormat]:
    return {
        f"{name}8": PixelFormat(colour, 8, "bytes"),
        **{f"{name}{bits}": PixelFormat(colour, bits, "words") for bits in (10, 12, 16)},
        **{f"{name}{bits}p": PixelFormat(colour, bits, "lsb") for bits in (10, 12)},
        **{f"{name}{bits}Packed": PixelFormat(colour, bits, "gige") for bits in (10, 12)},
    }


PIXEL_FORMATS: Mapping[str, PixelFormat] = {
    **_sensor_formats("Mono", "mono"),
    **_sensor_formats("BayerRG", "RG"),
    **_sensor_formats("BayerGR", "GR"),
    **_sensor_formats("BayerGB", "GB"),
    **_sensor_formats("BayerBG", "BG"),
    "RGB8": PixelFormat("rgb", 8, "bytes"),
    "BGR8": PixelFormat("bgr", 8, "bytes"),
}


@dataclass(frozen=True)
class RawLayout:
    """Layout of the bytes of a camera buffer.

    Attributes:
        pixel_format: PFNC name, one of `PIXEL_FORMATS`.
        width: Pixels per line.
        height: Number of lines.
        stride: Bytes from the start of one line to the next; None if lines have no padding.

    Raises:
        UnknownPixelFormat: The format is not supported.
        InvalidRequest: Lines would overlap or start within a byte, or a Bayer mosaic is too small.
    """

    pixel_format: str
    width: int
    height: int
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.pixel_format not in PIXEL_FORMATS:
            raise UnknownPixelFormat(self.pixel_format, PIXEL_FORMATS)
        line_bits = self.width * self.format.bits_per_pixel
        if self.stride is None and line_bits % 8:
            raise InvalidRequest(
                f"A line of {self.width} pixels in {self.pixel_format} has {line_bits} bits, which is not a whole "
                "number of bytes. Set another width at the camera, or send the bytes per line in X-Stride."
            )
        if self.stride is not None and self.stride < self.line_bytes:
            raise InvalidRequest(
                f"X-Stride {self.stride} is less than the size of a line: {self.width} pixels in {self.pixel_format} "
                f"take {self.line_bytes} bytes."
            )
        if self.format.is_bayer and min(self.width, self.height) < _MIN_BAYER:
            raise InvalidRequest(
                f"A {self.pixel_format} image of {self.width} x {self.height} pixels is too small for "
                f"colour interpolation; it needs at least {_MIN_BAYER} pixels on each side."
            )

    @property
    def format(self) -> PixelFormat:
        """Return the pixel format."""
        return PIXEL_FORMATS[self.pixel_format]

    @property
    def line_bytes(self) -> int:
        """Return the number of bytes of a line that contain pixels."""
        return -(-self.width * self.format.bits_per_pixel // 8)

    @property
    def total_bytes(self) -> int:
        """Return the number of bytes that the buffer must have."""
        return (self.stride or self.line_bytes) * self.height


@dataclass(frozen=True)
class PixelRules:
    """How the bytes of an image become 8-bit RGB. Only the recipe and the sender declare this, never the image.

    Attributes:
        layout: Layout of a camera buffer; None for an encoded image.
        bit_depth: Significant bits of a sample; None uses those of the format or file.
        black_level: The sample value that becomes 0.
        white_level: The sample value that becomes 255; None uses the largest value of `bit_depth` bits.
        tolerate_stray_bytes: Accept JPEG files of cameras that insert bytes after the coded data of a restart interval.
    """

    layout: RawLayout | None = None
    bit_depth: int | None = None
    black_level: int = 0
    white_level: int | None = None
    tolerate_stray_bytes: bool = False

    def to_stored(self) -> dict[str, Any] | None:
        """Return the rules as JSON-serialisable values, or None for the default rules."""
        return None if self == DEFAULT_RULES else asdict(self)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any] | None) -> PixelRules:
        """Return the rules that `to_stored` serialised."""
        if stored is None:
            return DEFAULT_RULES
        layout = stored["layout"]
        return cls(**{**stored, "layout": None if layout is None else RawLayout(**layout)})


DEFAULT_RULES = PixelRules()
