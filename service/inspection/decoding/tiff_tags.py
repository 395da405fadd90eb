"""Read the directories of a TIFF file: which tags they have, and with which values.

Only what is in the file is returned. Default values belong to `tiff`, which decides where the format defines one. The
sizes of directories and values are bounded, so that a small file cannot cost much memory or time.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from service.inspection.decoding.formats import TIFF
from service.inspection.errors import CorruptImage, ImageTooComplex, UnsupportedImage

_MAX_PAGES = 1_000
_MAX_TAGS = 4_096  # of one page
_TYPES: Mapping[int, str] = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}  # unsigned integers
_TYPE_BYTES: Mapping[int, int] = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip


DNG_VERSION = 50706
"""The tag that marks a DNG file. It determines no pixels."""


class Tag(IntEnum):
    """The tags that determine pixels, under their names in the specification."""

    NewSubfileType = 254
    SubfileType = 255
    ImageWidth = 256
    ImageLength = 257
    BitsPerSample = 258
    Compression = 259
    PhotometricInterpretation = 262
    FillOrder = 266
    StripOffsets = 273
    SamplesPerPixel = 277
    RowsPerStrip = 278
    StripByteCounts = 279
    PlanarConfiguration = 284
    PageNumber = 297
    Predictor = 317
    ColorMap = 320
    TileWidth = 322
    TileLength = 323
    TileOffsets = 324
    TileByteCounts = 325
    SubIFDs = 330
    InkSet = 332
    DotRange = 336
    ExtraSamples = 338
    SampleFormat = 339
    Indexed = 346
    ImageDepth = 32997


@dataclass(frozen=True)
class _Entry:
    """An entry of a directory: type and number of its values, and their offset in the file."""

    kind: int
    count: int
    offset: int


class Page:
    """One directory of the file.

    Args:
        data: The file.
        order: Byte order as in `struct`, "<" or ">".
        entries: Its entries by tag.
    """

    def __init__(self, data: bytes, order: str, entries: Mapping[int, _Entry]) -> None:
        self._data = data
        self.order = order
        self._entries = entries

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def kind(self, tag: Tag) -> int:
        """Return the type of the values of a tag that the page has."""
        return self._entries[tag].kind

    def count(self, tag: Tag) -> int:
        """Return the number of values of a tag, 0 if the page does not have it."""
        return self._entries[tag].count if tag in self._entries else 0

    def values(self, tag: Tag, max_count: int) -> npt.NDArray[np.int64]:
        """Return the values of a tag, int64 [N].

        Raises:
            UnsupportedImage: The page does not have the tag.
            CorruptImage: The values are no unsigned integers, or there are none, or more than `max_count`.
        """
        entry = self._entries.get(tag)
        if entry is None:
            raise missing(tag)
        if entry.kind not in _TYPES or not 1 <= entry.count <= max_count:
            raise CorruptImage(TIFF, f"its tag {tag.name} has {entry.count} values of the type {entry.kind}")
        kind = np.dtype(self.order + _TYPES[entry.kind])
        if entry.offset + entry.count * kind.itemsize > len(self._data):
            raise _truncated()
        values = np.frombuffer(self._data, kind, entry.count, entry.offset)
        if values.max() >= 1 << 62:
            raise CorruptImage(TIFF, f"its tag {tag.name} has an impossible value")
        return values.astype(np.int64)

    def value(self, tag: Tag, default: int | None = None) -> int:
        """Return the only value of a tag, or `default` where the format defines one and the page lacks the tag.

        Raises:
            UnsupportedImage: The page does not have the tag, and there is no default.
            CorruptImage: The tag has another number of values.
        """
        if default is not None and tag not in self:
            return default
        return int(self.values(tag, 1)[0])

    def uniform(self, tag: Tag, default: int | None = None) -> int:
        """Return the value of a tag that has one value per sample, all equal.

        Raises:
            UnsupportedImage: The values differ, or the page does not have the tag and there is no default.
            CorruptImage: The tag is damaged.
        """
        if default is not None and tag not in self:
            return default
        values = self.values(tag, 256)
        if (values != values[0]).any():
            raise UnsupportedImage(TIFF, f"its tag {tag.name} differs between the samples of a pixel")
        return int(values[0])


def missing(tag: Tag) -> UnsupportedImage:
    """Return the error for a tag that a file must have."""
    return UnsupportedImage(TIFF, f"the required tag {tag.name} ({tag.value}) is missing, and its value is not guessed")


def read_pages(data: bytes) -> list[Page]:
    """Read the main directories of the file.

    Raises:
        ImageTooComplex: There are more directories, or more tags in one, than allowed.
        CorruptImage: A directory is damaged.
    """
    if len(data) < 16:
        raise _truncated()
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    if big and struct.unpack_from(order + "HH", data, 4) != (8, 0):
        raise CorruptImage(TIFF, "its header is damaged")
    at = _integer(data, 8 if big else 4, order + ("Q" if big else "I"))
    pages: list[Page] = []
    seen: set[int] = set()
    while at:
        if at in seen:
            raise CorruptImage(TIFF, "its pages refer to each other in a loop")
        if len(pages) == _MAX_PAGES:
            raise ImageTooComplex(TIFF, f"it has more than {_MAX_PAGES} pages")
        seen.add(at)
        entries, at = _read_directory(data, at, order, big)
        pages.append(Page(data, order, entries))
    if not pages:
        raise CorruptImage(TIFF, "it has no page")
    return pages


def _read_directory(data: bytes, at: int, order: str, big: bool) -> tuple[dict[int, _Entry], int]:
    """Return the entries of a directory and the offset of the next one, 0 if there is none."""
    count = _integer(data, at, order + ("Q" if big else "H"))
    if not count:
        raise CorruptImage(TIFF, "a page has no tags")
    if count > _MAX_TAGS:
        raise ImageTooComplex(TIFF, f"a page has {count} tags; {_MAX_TAGS} are allowed")
    first, entry_bytes, inline = (at + 8, 20, 8) if big else (at + 2, 12, 4)
    entry_format, offset_format = (order + "HHQ", order + "Q") if big else (order + "HHI", order + "I")
    following = _integer(data, first + count * entry_bytes, offset_format)
    entries: dict[int, _Entry] = {}
    for position in range(first, first + count * entry_bytes, entry_bytes):
        tag, kind, values = struct.unpack_from(entry_format, data, position)
        place = position + entry_bytes - inline
        offset = place if values * _TYPE_BYTES.get(kind, 1) <= inline else _integer(data, place, offset_format)
        entry = _Entry(kind, values, offset)
        if tag in entries and tag in list(Tag):
            raise CorruptImage(TIFF, f"its tag {Tag(tag).name} is repeated")
        entries[tag] = entry
    return entries, following


def _integer(data: bytes, at: int, form: str) -> int:
    if at + struct.calcsize(form) > len(data):
        raise _truncated()
    return int(struct.unpack_from(form, data, at)[0])


def _truncated() -> CorruptImage:
    return CorruptImage(TIFF, "its last bytes are missing")
