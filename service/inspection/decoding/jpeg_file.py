"""Parse the segments of a JPEG file.

The parser keeps the segments that determine pixels (frame, tables, scans) and drops everything else, so that unusual
metadata has no effect: application data, comments, stray bytes between segments, and whatever follows the end of the
first image, for example the further images of an MPO file. It refuses what the decoder does not detect itself: missing
scans, an incomplete progression, and colours that the file does not state.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from service.inspection.decoding.formats import JPEG
from service.inspection.errors import CorruptImage, ImageTooComplex, UnsupportedImage

Colour = Literal["gray", "ycc", "rgb", "cmyk", "ycck"]
MAX_SCANS = 64
MAX_SCANNED_PIXELS = 2_000_000_000  # number of scans x number of pixels
_MAX_SEGMENTS = 10_000
_UNSUPPORTED_FRAMES = {
    0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical lossless",
    0xC9: "arithmetic", 0xCA: "arithmetic", 0xCB: "arithmetic lossless", 0xCD: "hierarchical arithmetic",
    0xCE: "hierarchical arithmetic", 0xCF: "hierarchical arithmetic lossless",
}  # fmt: skip
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed byte nor a restart marker nor a fill byte


class Marker(IntEnum):
    """The second byte of the markers that the parser interprets."""

    BASELINE = 0xC0
    EXTENDED = 0xC1
    PROGRESSIVE = 0xC2
    DHT = 0xC4
    SOI = 0xD8
    EOI = 0xD9
    SOS = 0xDA
    DQT = 0xDB
    DNL = 0xDC
    DRI = 0xDD
    APP0 = 0xE0
    APP14 = 0xEE


@dataclass(frozen=True)
class Component:
    """A component of the frame: its identifier and its sampling factors."""

    identifier: int
    horizontal: int
    vertical: int


@dataclass(frozen=True)
class Frame:
    """The frame header.

    Attributes:
        marker: The marker, which states the coding process.
        width: Width in pixels.
        height: Height in pixels.
        components: The components in their order.
        body: The segment without marker and length.
    """

    marker: int
    width: int
    height: int
    components: tuple[Component, ...]
    body: bytes

    @property
    def progressive(self) -> bool:
        """Return whether the frame is coded progressively."""
        return self.marker == Marker.PROGRESSIVE


@dataclass(frozen=True)
class Scan:
    """A scan.

    Attributes:
        components: Positions of its components in the frame.
        header: The segment without marker and length.
        data: The entropy-coded data with its restart markers.
        restart_interval: Number of MCUs between restart markers; 0 means none.
    """

    components: tuple[int, ...]
    header: bytes
    data: bytes
    restart_interval: int


@dataclass
class JpegFile:
    """What determines the pixels of a file: the frame, the colours, and tables and scans in the order of the file."""

    frame: Frame
    colour: Colour
    parts: list[tuple[int, bytes] | Scan] = field(default_factory=list)

    @property
    def scans(self) -> list[Scan]:
        """Return the scans."""
        return [part for part in self.parts if isinstance(part, Scan)]

    def encode(self) -> bytes:
        """Return the file without metadata, with a segment that states the colours."""
        transform = {"gray": None, "ycc": 1, "rgb": 0, "cmyk": 0, "ycck": 2}[self.colour]
        pieces = [b"\xff\xd8"]
        if transform is not None:
            pieces.append(segment(Marker.APP14, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform)))
        pieces.append(segment(self.frame.marker, self.frame.body))
        for part in self.parts:
            pieces.append(segment(Marker.SOS, part.header) + part.data if isinstance(part, Scan) else segment(*part))
        return b"".join([*pieces, b"\xff\xd9"])


def segment(marker: int, body: bytes) -> bytes:
    """Return an encoded segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def read_frame(data: bytes) -> Frame:
    """Read the frame header without reading the scans.

    Raises:
        UnsupportedImage: The coding process is not supported.
        ImageTooComplex: There are more segments before the frame header than allowed.
        CorruptImage: There is no valid frame header.
    """
    at = 2
    for _ in range(_MAX_SEGMENTS):
        marker, body, at = _next_segment(data, at)
        if _is_frame(marker):
            return _read_frame(marker, body)
        if marker in (Marker.EOI, Marker.SOS):
            raise CorruptImage(JPEG, "it has no frame header")
    raise _too_many_segments()


def parse(data: bytes) -> JpegFile:
    """Parse a file up to the end of its first image.

    Raises:
        UnsupportedImage: The coding process or the colours are not supported.
        ImageTooComplex: It has more segments or scans than allowed.
        CorruptImage: It is truncated or damaged.
    """
    frame: Frame | None = None
    parts: list[tuple[int, bytes] | Scan] = []
    statements = _ColourStatements()
    restart_interval, scans, at = 0, 0, 2
    for _ in range(_MAX_SEGMENTS):
        if scans and data[at : at + 1] != b"\xff":
            raise CorruptImage(JPEG, "bytes between its scans belong to no segment")
        marker, body, at = _next_segment(data, at)
        match marker:
            case Marker.EOI:
                break
            case Marker.SOI:
                raise CorruptImage(JPEG, "another image begins within it")
            case Marker.DNL:
                raise UnsupportedImage(JPEG, "its height is stated after the first scan (marker DNL)")
            case Marker.DHT | Marker.DQT:
                parts.append((marker, body))
            case Marker.DRI:
                if len(body) != 2:
                    raise CorruptImage(JPEG, "its restart interval is damaged")
                restart_interval = int.from_bytes(body, "big")
                parts.append((marker, body))
            case Marker.SOS:
                if frame is None:
                    raise CorruptImage(JPEG, "it has no frame header")
                scans += 1
                if scans > MAX_SCANS or scans * frame.width * frame.height > MAX_SCANNED_PIXELS:
                    raise ImageTooComplex(
                        JPEG, f"it has {scans} or more scans of {frame.width} x {frame.height} pixels"
                    )
                end = _end_of_scan(data, at)
                parts.append(_read_scan(frame, body, data[at:end], restart_interval))
                at = end
            case _ if _is_frame(marker):
                if frame is not None:
                    raise CorruptImage(JPEG, "its frame header is repeated")
                frame = _read_frame(marker, body)
            case _:
                statements.read(marker, body)
    else:
        raise _too_many_segments()
    if frame is None or not scans:
        raise CorruptImage(JPEG, "it has no image data")
    file = JpegFile(frame, statements.colour(frame), parts)
    _check_complete(file)
    return file


def _next_segment(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Return marker and body of the next segment, and the offset behind it. Stray bytes before it are skipped."""
    found = _MARKER.search(data, at)
    if found is None:
        raise _truncated()
    marker, at = data[found.end() - 1], found.end()
    if marker in (Marker.SOI, Marker.EOI):
        return marker, b"", at
    size = int.from_bytes(data[at : at + 2], "big")
    if at + 2 > len(data) or at + size > len(data):
        raise _truncated()
    if size < 2:
        raise CorruptImage(JPEG, "a segment has a wrong length")
    return marker, data[at + 2 : at + size], at + size


def _end_of_scan(data: bytes, at: int) -> int:
    found = _END_OF_SCAN.search(data, at)
    if found is None:
        raise _truncated()
    return found.start()


def _is_frame(marker: int) -> bool:
    return marker in (Marker.BASELINE, Marker.EXTENDED, Marker.PROGRESSIVE) or marker in _UNSUPPORTED_FRAMES


def _read_frame(marker: int, body: bytes) -> Frame:
    if marker in _UNSUPPORTED_FRAMES:
        raise UnsupportedImage(JPEG, f"its coding is {_UNSUPPORTED_FRAMES[marker]}; baseline and progressive are read")
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise CorruptImage(JPEG, "its frame header is damaged")
    bits, height, width, count = struct.unpack_from(">BHHB", body)
    if bits == 12:
        raise UnsupportedImage(JPEG, "its samples have 12 bits; 8 bits are read")
    if bits != 8 or not width:
        raise CorruptImage(JPEG, "its frame header is damaged")
    if not height:
        raise UnsupportedImage(JPEG, "its height is not in its header but after the first scan (marker DNL)")
    components = tuple(Component(body[at], body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, len(body), 3))
    factors = {factor for item in components for factor in (item.horizontal, item.vertical)}
    if not factors <= {1, 2, 3, 4} or len({item.identifier for item in components}) < count:
        raise CorruptImage(JPEG, "its frame header is damaged")
    return Frame(marker, width, height, components, body)


def _read_scan(frame: Frame, body: bytes, data: bytes, restart_interval: int) -> Scan:
    if not body or len(body) != 4 + 2 * body[0] or not 1 <= body[0] <= len(frame.components):
        raise CorruptImage(JPEG, "the header of a scan is damaged")
    positions = {item.identifier: position for position, item in enumerate(frame.components)}
    components = tuple(positions.get(body[at], -1) for at in range(1, len(body) - 3, 2))
    if -1 in components or len(set(components)) < len(components):
        raise CorruptImage(JPEG, "the header of a scan is damaged")
    if not frame.progressive:
        # These values have no meaning in sequential files, and some cameras write others.
        body = body[:-3] + b"\x00\x3f\x00"
    return Scan(components, body, data, restart_interval)


def _check_complete(file: JpegFile) -> None:
    """Require that the scans contain every component and, in progressive files, every bit of every coefficient."""
    count = len(file.frame.components)
    if not file.frame.progressive:
        found = [component for scan in file.scans for component in scan.components]
        if sorted(found) != list(range(count)):
            raise CorruptImage(JPEG, "a colour component is missing or repeated")
        return
    # The lowest bit of each coefficient that was transmitted so far; None before its first scan.
    lowest: list[list[int | None]] = [[None] * 64 for _ in range(count)]
    for scan in file.scans:
        first, last, bits = scan.header[-3:]
        before, after = bits >> 4 or None, bits & 15
        valid = last == 0 if first == 0 else first <= last <= 63 and len(scan.components) == 1
        if not valid or (before is not None and after != before - 1):
            raise CorruptImage(JPEG, "the header of a progressive scan is damaged")
        for component in scan.components:
            if first and lowest[component][0] is None:
                raise CorruptImage(JPEG, "its progressive scans are out of order")
            if any(lowest[component][k] != before for k in range(first, last + 1)):
                raise CorruptImage(JPEG, "its progressive scans are out of order")
            lowest[component][first : last + 1] = [after] * (last + 1 - first)
    if any(bit != 0 for coefficients in lowest for bit in coefficients):
        raise CorruptImage(JPEG, "its progressive scans are incomplete")


class _ColourStatements:
    """What the application segments state about the colours."""

    def __init__(self) -> None:
        self.jfif = False
        self.transform: int | None = None

    def read(self, marker: int, body: bytes) -> None:
        if marker == Marker.APP0 and body.startswith(b"JFIF\0"):
            self.jfif = True
        if marker == Marker.APP14 and body.startswith(b"Adobe") and len(body) >= 12:
            self.transform = body[11]

    def colour(self, frame: Frame) -> Colour:
        """Return the colours as JFIF (ITU-T T.871) and ITU-T T.872, section 6.5.3, define them.

        Raises:
            UnsupportedImage: The statements contradict each other, or state no colours that are read.
        """
        identifiers = bytes(item.identifier for item in frame.components)
        match len(frame.components), self.transform:
            case 1, _:
                return "gray"
            case 3, None:
                if identifiers != b"RGB":
                    return "ycc"
                if not self.jfif:
                    return "rgb"
            case 3, 1:
                return "ycc"
            case 3, 0 if not self.jfif:
                return "rgb"
            case 4, 0:
                return "cmyk"
            case 4, 2:
                return "ycck"
        stated = "no Adobe marker" if self.transform is None else f"an Adobe marker with transform {self.transform}"
        jfif = "a JFIF marker and " if self.jfif else ""
        raise UnsupportedImage(
            JPEG, f"{jfif}{stated} do not define the colours of its {len(frame.components)} components"
        )


def _too_many_segments() -> ImageTooComplex:
    return ImageTooComplex(JPEG, f"it has more than {_MAX_SEGMENTS} segments")


def _truncated() -> CorruptImage:
    return CorruptImage(JPEG, "its last bytes are missing")
