"""Decode PNG files, after every checksum of the file was verified.

Decoders of PNG skip checksums in some places, choose a frame of an animation, or apply transparency. So the structure
of the file is verified here first: signature, order of the chunks, CRC of every chunk, and the compressed stream with
its Adler-32 up to its end. Then OpenCV (libpng) decodes a file that has only the header and the verified image data.

Pixels are the stored samples. gAMA, cHRM, sRGB, iCCP, sBIT and tRNS change none of them. An animated PNG (APNG) is read
as its default image, which the format defines for readers without animation.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from service.inspection.decoding.formats import PNG, PNG_SIGNATURE, check_size
from service.inspection.decoding.samples import Samples
from service.inspection.errors import CorruptImage, ImageTooComplex, UnsupportedImage

_MAX_CHUNKS = 100_000
_MAX_SIDE = 1_000_000  # limit of libpng
_INFLATE_BYTES = 1 << 20
_MAX_KEPT_BYTES = 64 * 2**20
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_CHANNELS = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}
_BIT_DEPTHS = {
    _GRAY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GRAY_ALPHA: (8, 16),
    _RGB_ALPHA: (8, 16),
}
# Left and top of the first pixel, horizontal and vertical step of the seven passes of an interlaced image.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class _Header:
    """The chunk IHDR."""

    width: int
    height: int
    bits: int
    colour: int
    interlaced: bool

    @property
    def inflated_bytes(self) -> int:
        """Return the number of bytes of the decompressed image data."""
        passes = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        bits_per_pixel = self.bits * _CHANNELS[self.colour]
        total = 0
        for left, top, step_x, step_y in passes:
            columns, rows = -(-(self.width - left) // step_x), -(-(self.height - top) // step_y)
            if columns > 0 and rows > 0:
                total += rows * (1 + -(-columns * bits_per_pixel // 8))
        return total


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height.

    Raises:
        CorruptImage, UnsupportedImage: The header is damaged or states an unknown feature.
    """
    kind, body, _ = _read_chunk(data, len(PNG_SIGNATURE))
    header = _read_header(kind, body)
    return header.width, header.height


def read_samples(data: bytes, max_pixels: int) -> tuple[Samples, int]:
    """Decode the default image.

    Transparency is dropped, and gray samples of less than 8 bits are expanded to 8.

    Returns:
        Samples, uint8 or uint16, [H, W] gray or [H, W, 3] RGB, and their number of bits, 8 or 16.

    Raises:
        TooManyPixels, ImageTooComplex: A limit is exceeded; nothing was decoded.
        UnsupportedImage: The file uses a feature that no version of the format defines.
        CorruptImage: The file is truncated or damaged.
    """
    at, number = len(PNG_SIGNATURE), 0
    header: _Header | None = None
    palette: bytes | None = None
    image_data: list[bytes] = []
    image_data_ended = False
    while True:
        kind, body, at = _read_chunk(data, at)
        number += 1
        if number > _MAX_CHUNKS:
            raise ImageTooComplex(PNG, f"it has more than {_MAX_CHUNKS} chunks")
        if header is None:
            header = _read_header(kind, body)
            check_size(header.width, header.height, max_pixels)
            continue
        image_data_ended = image_data_ended or bool(image_data and kind != b"IDAT")
        match kind:
            case b"IDAT":
                if image_data_ended:
                    raise CorruptImage(PNG, "its image data is interrupted by another chunk")
                image_data.append(body)
            case b"IEND":
                break
            case b"PLTE":
                if palette is not None or image_data:
                    raise CorruptImage(PNG, "its palette is repeated or follows the image data")
                palette = body
            case b"IHDR":
                raise CorruptImage(PNG, "its header is repeated")
            case _ if not kind[0] & 0x20:
                raise UnsupportedImage(PNG, f"it has the unknown critical chunk {kind.decode('ascii')}")
    return _decode(header, palette, _verify_stream(image_data, header.inflated_bytes))


def _read_chunk(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """Return type and body of the chunk at an offset, and the offset of the next one."""
    if at + 12 > len(data):
        raise CorruptImage(PNG, "its last bytes are missing")
    size = int.from_bytes(data[at : at + 4], "big")
    end = at + 12 + size
    if end > len(data):
        raise CorruptImage(PNG, "its last bytes are missing")
    kind, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
    if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end], "big"):
        raise CorruptImage(PNG, f"the checksum of its chunk {kind.decode('ascii', 'backslashreplace')} is wrong")
    if not kind.isalpha():
        raise CorruptImage(PNG, "it has a chunk without a valid name")
    return kind, body, end


def _read_header(kind: bytes, body: bytes) -> _Header:
    if kind == b"CgBI":
        raise UnsupportedImage(PNG, "it is in Apple's variant of the format (chunk CgBI)")
    if kind != b"IHDR" or len(body) != 13:
        raise CorruptImage(PNG, "it does not begin with a header")
    width, height, bits, colour, compression, filtering, interlacing = struct.unpack(">IIBBBBB", body)
    if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise CorruptImage(PNG, f"its header states {width} x {height} pixels")
    if bits not in _BIT_DEPTHS.get(colour, ()):
        raise CorruptImage(PNG, f"its header states {bits} bits for the colour type {colour}")
    if compression or filtering or interlacing > 1:
        raise UnsupportedImage(PNG, "its compression, filter or interlace method is unknown")
    return _Header(width, height, bits, colour, bool(interlacing))


def _verify_stream(image_data: list[bytes], expected: int) -> list[bytes]:
    """Inflate the image data, compare its size and verify its Adler-32.

    Returns:
        A stream with the same contents. It is not compressed, so that the decoder need not inflate it again, unless
        that would take much memory.
    """
    inflater = zlib.decompressobj()
    keep = expected <= _MAX_KEPT_BYTES
    inflated, kept = 0, []
    try:
        for body in [*image_data, b""]:
            rest = body
            while not inflater.eof:
                piece = inflater.decompress(rest, _INFLATE_BYTES)
                rest = inflater.unconsumed_tail
                inflated += len(piece)
                if keep:
                    kept.append(piece)
                if inflated > expected:
                    raise CorruptImage(PNG, "its image data is longer than its header states")
                if not rest and len(piece) < _INFLATE_BYTES:
                    break
    except zlib.error as error:
        raise CorruptImage(PNG, "its compressed image data is damaged") from error
    if not inflater.eof or inflated != expected:
        raise CorruptImage(PNG, "its image data does not have the size that its header states")
    return [zlib.compress(b"".join(kept), 0)] if keep else image_data


def _decode(header: _Header, palette: bytes | None, image_data: list[bytes]) -> tuple[Samples, int]:
    if max(header.width, header.height) > _MAX_SIDE:
        raise UnsupportedImage(PNG, f"a side is longer than {_MAX_SIDE} pixels")
    # The indices of a palette are decoded as gray samples, because decoders make up colours for invalid indices.
    colour = _GRAY if header.colour == _PALETTE else header.colour
    ihdr = struct.pack(">IIBBBBB", header.width, header.height, header.bits, colour, 0, 0, header.interlaced)
    chunks = [(b"IHDR", ihdr), *((b"IDAT", body) for body in image_data), (b"IEND", b"")]
    clean = b"".join((PNG_SIGNATURE, *(part for kind, body in chunks for part in _chunk(kind, body))))
    decoded: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(clean, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise CorruptImage(PNG, "its rows are damaged")
    if header.colour == _PALETTE:
        return _colours(decoded // (255 // (2**header.bits - 1)), palette), 8
    if header.colour in (_RGB, _RGB_ALPHA):
        conversion = cv2.COLOR_BGR2RGB if decoded.shape[2] == 3 else cv2.COLOR_BGRA2RGB
        return cast(Samples, cv2.cvtColor(decoded, conversion)), max(header.bits, 8)
    # OpenCV repeats gray samples that have an alpha channel.
    return decoded if decoded.ndim == 2 else decoded[..., 0], max(header.bits, 8)


def _chunk(kind: bytes, body: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)


def _colours(indices: npt.NDArray[Any], palette: bytes | None) -> Samples:
    if palette is None or not palette or len(palette) % 3 or len(palette) > 3 * 256:
        raise CorruptImage(PNG, "its palette is missing or damaged")
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    if indices.max() >= len(colours):
        raise CorruptImage(PNG, f"a pixel has the colour {indices.max()} of a palette of {len(colours)}")
    return np.asarray(colours[indices], np.uint8)
