"""Decode TIFF files.

Everything that determines pixels must be stated in the file, except where the specification (TIFF 6.0) defines a
default value. Sizes and the numbers of strips and tiles are checked before anything is allocated. Deflate is
decompressed with zlib, which verifies the checksum; LZW and PackBits with libtiff (in Pillow), all strips or tiles in
one call.

Of several pages, the first one with the full image is read: not a thumbnail or a mask (NewSubfileType, SubfileType).
Pages that are numbered (PageNumber) are read in this order.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.file_formats import detect_raw
from service.inspection.decoding.formats import TIFF, TIFF_SIGNATURES, check_size
from service.inspection.decoding.samples import Samples
from service.inspection.decoding.tiff_tags import DNG_VERSION, Page, Tag, missing, read_pages
from service.inspection.errors import CorruptImage, ImageTooComplex, TooManyPixels, UnsupportedImage

_NO_COMPRESSION, _LZW, _ADOBE_DEFLATE, _PACKBITS, _DEFLATE = 1, 5, 8, 32773, 32946
_COMPRESSIONS = (_NO_COMPRESSION, _LZW, _ADOBE_DEFLATE, _PACKBITS, _DEFLATE)
_COMPRESSION_NAMES = {
    2: "CCITT", 3: "CCITT G3", 4: "CCITT G4", 6: "JPEG", 7: "JPEG", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA",
    50000: "ZSTD", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK = 0, 1, 2, 3, 5
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4}  # with their number of samples
_COLOUR_NAMES = {4: "a transparency mask", 6: "YCbCr", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32803: "CFA"}
_CFA, _LINEAR_RAW = 32803, 34892
_FORMAT_NAMES = {2: "INT", 3: "IEEEFP", 4: "VOID", 5: "COMPLEXINT", 6: "COMPLEXIEEEFP"}
_BITS = (1, 2, 4, 8, 12, 16)
_SEPARATE = 2
_HORIZONTAL = 2
_PREMULTIPLIED = 1
_THUMBNAIL, _MASK = 1, 4  # bits of NewSubfileType
_MAX_CHANNELS = 8
_MAX_CHUNKS = 100_000  # strips or tiles
_MAX_EXCESS_BYTES = 32 * 2**20  # of strips and tiles that inflate beyond their size
_SHORT, _LONG, _BYTE = 3, 4, 1


@dataclass(frozen=True)
class _Layout:
    """How the samples are stored.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        bits: Bits of a sample.
        channels: Samples of a pixel.
        planes: Number of planes: the channels if each is stored on its own, else 1.
        chunk_width: Width of a strip or tile.
        chunk_height: Height of a strip or tile.
        tiled: Whether the image is stored in tiles.
        compression: Value of the tag Compression.
        offsets: int64 [N], position of each strip or tile.
        byte_counts: int64 [N], size of each strip or tile.
    """

    width: int
    height: int
    bits: int
    channels: int
    planes: int
    chunk_width: int
    chunk_height: int
    tiled: bool
    compression: int
    offsets: npt.NDArray[np.int64]
    byte_counts: npt.NDArray[np.int64]

    @property
    def together(self) -> int:
        """Return the number of samples of a pixel that are stored together."""
        return self.channels // self.planes

    @property
    def line_bytes(self) -> int:
        """Return the bytes of a line of a strip or tile."""
        return -(-self.chunk_width * self.together * self.bits // 8)

    @property
    def chunk_rows(self) -> list[int]:
        """Return the number of rows of each strip or tile of one plane."""
        down, across = -(-self.height // self.chunk_height), -(-self.width // self.chunk_width)
        rows = [self.chunk_height] * (down * across)
        if not self.tiled:
            rows[-1] = self.height - (down - 1) * self.chunk_height
        return rows


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the main page.

    Raises:
        CorruptImage, UnsupportedImage, ImageTooComplex: The header is damaged or states an unsupported feature.
    """
    page = _main_page(data)
    return page.value(Tag.ImageWidth), page.value(Tag.ImageLength)


def read_samples(data: bytes, max_pixels: int) -> tuple[Samples, int]:
    """Decode the main page.

    Transparency is dropped, palettes and CMYK are converted, white-is-zero is inverted, and samples of less than 8 bits
    are expanded to 8.

    Returns:
        Samples, uint8 or uint16, [H, W] gray or [H, W, 3] RGB, and their number of bits, 8 to 16.

    Raises:
        TooManyPixels, ImageTooComplex: A limit is exceeded; nothing was decoded.
        UnsupportedImage: The file uses an unsupported feature, or does not state what is needed.
        CorruptImage: The file is truncated or damaged.
    """
    page = _main_page(data)
    layout = _read_layout(page, len(data), max_pixels)
    samples = _assemble(page, layout, data)
    return _convert(page, layout, samples)


def _main_page(data: bytes) -> Page:
    every = read_pages(data)
    pages = [page for page in every if _is_full_image(page)]
    raw = detect_raw(data, DNG_VERSION in every[0])
    # The images that RAW files contain beside the data of the sensor are previews.
    if raw and (not pages or DNG_VERSION not in every[0] or _is_sensor_data(pages[0])):
        raise UnsupportedImage(TIFF, f"it is {raw.name}; {raw.advice}")
    if not pages:
        raise UnsupportedImage(TIFF, "its pages are thumbnails or masks, and none of them is the full image")
    if all(page.count(Tag.PageNumber) == 2 for page in pages):
        return min(pages, key=lambda page: int(page.values(Tag.PageNumber, 2)[0]))
    return pages[0]


def _is_sensor_data(page: Page) -> bool:
    return page.value(Tag.PhotometricInterpretation, _RGB) in (_CFA, _LINEAR_RAW)


def _is_full_image(page: Page) -> bool:
    if Tag.NewSubfileType in page:
        return not page.value(Tag.NewSubfileType) & (_THUMBNAIL | _MASK)
    return page.value(Tag.SubfileType, 1) != 2


def _read_layout(page: Page, size: int, max_pixels: int) -> _Layout:
    """Check the page against the limits and the supported features, and return how it is stored."""
    width, height = page.value(Tag.ImageWidth), page.value(Tag.ImageLength)
    if width < 1 or height < 1:
        raise CorruptImage(TIFF, f"its header states {width} x {height} pixels")
    check_size(width, height, max_pixels)
    photometric = page.value(Tag.PhotometricInterpretation)
    if photometric not in _COLOURS:
        raise UnsupportedImage(TIFF, f"its colours are {_COLOUR_NAMES.get(photometric, photometric)}")
    channels = _read_channels(page, photometric)
    bits = page.uniform(Tag.BitsPerSample, 1)
    _check_features(page, bits)
    planes = channels if page.value(Tag.PlanarConfiguration, 1) == _SEPARATE else 1
    tiled = Tag.TileOffsets in page or Tag.TileWidth in page
    if tiled:
        chunk_width, chunk_height = page.value(Tag.TileWidth), page.value(Tag.TileLength)
        offset_tag, count_tag = Tag.TileOffsets, Tag.TileByteCounts
    else:
        chunk_width, chunk_height = width, min(page.value(Tag.RowsPerStrip, height), height)
        offset_tag, count_tag = Tag.StripOffsets, Tag.StripByteCounts
    if chunk_width < 1 or chunk_height < 1:
        raise CorruptImage(TIFF, f"its strips or tiles are {chunk_width} x {chunk_height} pixels")
    down, across = -(-height // chunk_height), -(-width // chunk_width)
    if down * chunk_height * across * chunk_width > 2 * max_pixels:
        raise TooManyPixels(across * chunk_width, down * chunk_height, 2 * max_pixels)
    expected = planes * down * across
    if expected > _MAX_CHUNKS:
        raise ImageTooComplex(TIFF, f"it has {expected} strips or tiles; {_MAX_CHUNKS} are allowed")
    offsets, byte_counts = page.values(offset_tag, _MAX_CHUNKS), page.values(count_tag, _MAX_CHUNKS)
    if not len(offsets) == len(byte_counts) == expected:
        raise CorruptImage(TIFF, f"it has {len(offsets)} strips or tiles instead of {expected}")
    # Other readers treat a missing strip as black.
    if (offsets <= 0).any() or (byte_counts <= 0).any() or (offsets + byte_counts > size).any():
        raise CorruptImage(TIFF, "its last bytes are missing")
    compression = page.value(Tag.Compression)
    layout = _Layout(
        width, height, bits, channels, planes, chunk_width, chunk_height, tiled, compression, offsets, byte_counts
    )
    _check_defaults(page, layout)
    return layout


def _read_channels(page: Page, photometric: int) -> int:
    """Return the number of samples of a pixel."""
    needed = _COLOURS[photometric]
    channels = page.value(Tag.SamplesPerPixel, 1 if needed == 1 else None)
    if not needed <= channels <= _MAX_CHANNELS:
        raise UnsupportedImage(TIFF, f"its pixels have {channels} samples")
    if channels > needed and Tag.ExtraSamples not in page:
        raise missing(Tag.ExtraSamples)
    if Tag.ExtraSamples in page and page.count(Tag.ExtraSamples) != channels - needed:
        raise CorruptImage(TIFF, "its tag ExtraSamples does not match its number of samples")
    return channels


def _check_features(page: Page, bits: int) -> None:
    sample_format = page.uniform(Tag.SampleFormat, 1)
    if sample_format != 1 or bits not in _BITS:
        name = _FORMAT_NAMES.get(sample_format, "")
        raise UnsupportedImage(
            TIFF, f"its samples are {bits} bits {name}, and no black and white level is defined for them"
        )
    compression, predictor = page.value(Tag.Compression), page.value(Tag.Predictor, 1)
    if compression not in _COMPRESSIONS or predictor not in (1, _HORIZONTAL):
        name = _COMPRESSION_NAMES.get(compression, str(compression))
        raise UnsupportedImage(
            TIFF, f"its compression is {name} (predictor {predictor}); none, LZW, deflate and PackBits are read"
        )
    if page.value(Tag.ImageDepth, 1) != 1:
        raise UnsupportedImage(TIFF, f"it holds {page.value(Tag.ImageDepth)} layers")
    if page.value(Tag.FillOrder, 1) != 1 or (predictor == _HORIZONTAL and bits % 8):
        raise UnsupportedImage(TIFF, "its bit order is not supported")
    if page.value(Tag.PlanarConfiguration, 1) not in (1, _SEPARATE):
        raise CorruptImage(TIFF, "its tag PlanarConfiguration has an unknown value")
    if page.value(Tag.Indexed, 0) or page.value(Tag.InkSet, 1) != 1:
        raise UnsupportedImage(TIFF, "its inks or indexed colours are not supported")
    if Tag.DotRange in page and page.values(Tag.DotRange, 2 * _MAX_CHANNELS)[:2].tolist() != [0, 2**bits - 1]:
        raise UnsupportedImage(TIFF, "the range of its inks (tag DotRange) is not supported")


def _check_defaults(page: Page, layout: _Layout) -> None:
    """Accept defaults of BitsPerSample and SamplesPerPixel only where nothing in the file contradicts them.

    The specification allows gray files without SamplesPerPixel, and bilevel files without BitsPerSample. A file that
    lost one of these tags looks the same, except for the size of its data.
    """
    needed = layout.planes * sum(layout.chunk_rows) * layout.line_bytes
    uncompressed, exact = layout.compression == _NO_COMPRESSION, int(layout.byte_counts.sum()) == needed
    if page.count(Tag.BitsPerSample) != layout.channels and not (uncompressed and exact):
        raise missing(Tag.BitsPerSample if Tag.SamplesPerPixel in page else Tag.SamplesPerPixel)
    if Tag.SamplesPerPixel not in page and uncompressed and not exact:
        raise missing(Tag.SamplesPerPixel)


def _assemble(page: Page, layout: _Layout, data: bytes) -> Samples:
    """Decode the strips or tiles to one image: [H, W, C] of the file's samples, native byte order."""
    per_plane = len(layout.offsets) // layout.planes
    image = np.empty((layout.height, layout.width, layout.channels), np.uint8 if layout.bits <= 8 else np.uint16)
    for plane in range(layout.planes):
        chunks = slice(plane * per_plane, (plane + 1) * per_plane)
        places = zip(layout.offsets[chunks].tolist(), layout.byte_counts[chunks].tolist(), strict=True)
        pieces = [data[offset : offset + count] for offset, count in places]
        lines = _decompress(pieces, layout)
        samples: npt.NDArray[Any] = _unpack(lines, layout.bits, page.order, layout.chunk_width * layout.together)
        samples = samples.reshape(len(lines), layout.chunk_width, layout.together)
        if page.value(Tag.Predictor, 1) == _HORIZONTAL:
            samples = np.cumsum(samples, axis=1, dtype=samples.dtype)
        if layout.tiled:
            across = -(-layout.width // layout.chunk_width)
            tiles = samples.reshape(-1, across, layout.chunk_height, layout.chunk_width, layout.together)
            samples = tiles.swapaxes(1, 2).reshape(-1, across * layout.chunk_width, layout.together)
        image[..., plane : plane + layout.together] = samples[: layout.height, : layout.width]
    return image


def _decompress(pieces: list[bytes], layout: _Layout) -> npt.NDArray[np.uint8]:
    """Decompress the strips or tiles of a plane to lines, uint8 [rows, line_bytes]."""
    needed = [rows * layout.line_bytes for rows in layout.chunk_rows]
    if layout.compression == _NO_COMPRESSION:
        if any(len(piece) < size for piece, size in zip(pieces, needed, strict=True)):
            raise CorruptImage(TIFF, "a strip or tile is shorter than its size")
        joined = b"".join(piece[:size] for piece, size in zip(pieces, needed, strict=True))
    elif layout.compression in (_ADOBE_DEFLATE, _DEFLATE):
        joined = _inflate(pieces, needed)
    else:
        return _decompress_with_libtiff(pieces, layout)
    return np.frombuffer(joined, np.uint8).reshape(-1, layout.line_bytes)


def _inflate(pieces: list[bytes], needed: list[int]) -> bytes:
    """Inflate strips or tiles to their sizes, and verify the checksum of each."""
    inflated: list[bytes] = []
    excess = 0
    try:
        for piece, size in zip(pieces, needed, strict=True):
            inflater = zlib.decompressobj()
            inflated.append(inflater.decompress(piece, size))
            # Some writers fill the last strip beyond the image. The checksum comes after all of it.
            while not inflater.eof and (rest := inflater.decompress(inflater.unconsumed_tail, 1 << 20)):
                excess += len(rest)
                if excess > _MAX_EXCESS_BYTES:
                    raise ImageTooComplex(TIFF, "its strips or tiles inflate far beyond their size")
            if not inflater.eof or len(inflated[-1]) != size:
                raise CorruptImage(TIFF, "a strip or tile is shorter than its size")
    except zlib.error as error:
        raise CorruptImage(TIFF, "a compressed strip or tile is damaged") from error
    return b"".join(inflated)


def _decompress_with_libtiff(pieces: list[bytes], layout: _Layout) -> npt.NDArray[np.uint8]:
    """Decompress strips or tiles as the strips of a new gray file whose header states only verified sizes."""
    total, count, data_bytes = sum(layout.chunk_rows), len(pieces), sum(map(len, pieces))
    numbers_at = data_bytes + 8
    arrays_at = numbers_at + 2 + 12 * 9 + 4
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    offsets = 8 + np.cumsum(lengths) - lengths
    arrays = [offsets.astype("<u4").tobytes(), lengths.astype("<u4").tobytes()]
    places = [int(offsets[0]), int(lengths[0])] if count == 1 else [arrays_at, arrays_at + 4 * count]
    tags = [
        (Tag.ImageWidth, _LONG, 1, layout.line_bytes), (Tag.ImageLength, _LONG, 1, total),
        (Tag.BitsPerSample, _SHORT, 1, 8), (Tag.Compression, _SHORT, 1, layout.compression),
        (Tag.PhotometricInterpretation, _SHORT, 1, 1), (Tag.StripOffsets, _LONG, count, places[0]),
        (Tag.SamplesPerPixel, _SHORT, 1, 1), (Tag.RowsPerStrip, _LONG, 1, layout.chunk_height),
        (Tag.StripByteCounts, _LONG, count, places[1]),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    file = b"".join([TIFF_SIGNATURES[0], struct.pack("<I", numbers_at), *pieces, directory, *arrays])
    try:
        with Image.open(io.BytesIO(file), formats=["TIFF"]) as image:
            return np.asarray(image, np.uint8)
    except (OSError, ValueError) as error:
        raise CorruptImage(TIFF, "a compressed strip or tile is damaged") from error


def _unpack(lines: npt.NDArray[np.uint8], bits: int, order: str, count: int) -> Samples:
    """Convert lines of bytes to lines of `count` samples. TIFF packs the most significant bit first."""
    if bits == 8:
        return lines
    if bits == 16:
        return np.ascontiguousarray(lines).view(f"{order}u2").astype(np.uint16, copy=False)
    if bits == 12:
        groups = np.pad(lines, ((0, 0), (0, -lines.shape[1] % 3))).reshape(len(lines), -1, 3).astype(np.uint16)
        a, b, c = np.moveaxis(groups, 2, 0)
        parts: list[npt.NDArray[Any]] = [a << 4 | b >> 4, (b & 15) << 8 | c]
    else:
        parts = [lines >> shift & (1 << bits) - 1 for shift in range(8 - bits, -1, -bits)]
    return np.stack(parts, axis=2).reshape(len(lines), -1)[:, :count]


def _convert(page: Page, layout: _Layout, samples: Samples) -> tuple[Samples, int]:
    """Convert the samples of the file to gray or RGB."""
    photometric, bits = page.value(Tag.PhotometricInterpretation), layout.bits
    _require_straight_alpha(page, layout, samples)
    if photometric == _PALETTE:
        return _colours(page, bits, samples[..., 0]), 8
    samples = samples[..., : _COLOURS[photometric]]
    if bits < 8:
        samples, bits = (samples.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8), 8
    if photometric == _WHITE_IS_ZERO:
        samples = (2**bits - 1 - samples).astype(samples.dtype)
    if photometric != _CMYK:
        return samples[..., 0] if samples.shape[2] == 1 else samples, bits
    if layout.bits != 8:
        raise UnsupportedImage(TIFF, f"its colours are CMYK of {layout.bits} bits; 8 bits are read")
    return np.asarray(Image.fromarray(np.ascontiguousarray(samples), "CMYK").convert("RGB")), 8


def _require_straight_alpha(page: Page, layout: _Layout, samples: Samples) -> None:
    """Refuse colours that are multiplied by an alpha channel that is not opaque everywhere."""
    if Tag.ExtraSamples not in page:
        return
    first = _COLOURS[page.value(Tag.PhotometricInterpretation)]
    for channel, kind in enumerate(page.values(Tag.ExtraSamples, _MAX_CHANNELS).tolist(), first):
        if kind == _PREMULTIPLIED and samples[..., channel].min() < 2**layout.bits - 1:
            raise UnsupportedImage(TIFF, "its colours are multiplied by its alpha channel; store straight alpha")


def _colours(page: Page, bits: int, indices: Samples) -> Samples:
    """Return the colours of palette indices, uint8 [H, W, 3]."""
    if bits > 8:
        raise UnsupportedImage(TIFF, f"its palette indices have {bits} bits; up to 8 are read")
    values = page.values(Tag.ColorMap, 3 * 2**bits)
    if len(values) != 3 * 2**bits:
        raise CorruptImage(TIFF, f"its tag ColorMap has {len(values)} values instead of {3 * 2**bits}")
    # A colour map has 16 bits per value. As a 16-bit map, a map without any larger value would be black as a whole:
    # some programs write 8 bits, which libtiff's tools detect in the same way.
    eight_bits = page.kind(Tag.ColorMap) == _BYTE or values.max() <= 255
    return np.moveaxis((values if eight_bits else values >> 8).astype(np.uint8).reshape(3, -1)[:, indices], 0, -1)
