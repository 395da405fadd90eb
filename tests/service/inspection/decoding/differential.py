"""Files of every structure that the formats allow, each with the pixels that an independent decoder reads."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import png
import tifffile
from PIL import Image

from tests.service.inspection.decoding import bmp_files, png_files

UInt8Image = npt.NDArray[np.uint8]
Case = tuple[str, bytes, UInt8Image]
_SIZES = ((1, 1), (7, 5), (16, 16), (33, 18))  # width and height


def rgb(samples: npt.NDArray[Any]) -> UInt8Image:
    """Return 8-bit gray or RGB samples as RGB."""
    flat = samples[..., None] if samples.ndim == 2 else samples
    return np.repeat(flat, 3, axis=2).astype(np.uint8) if flat.shape[2] == 1 else flat.astype(np.uint8)


def textured(rng: np.random.Generator, width: int, height: int, channels: int, bits: int) -> npt.NDArray[Any]:
    """Return samples with smooth parts and noise, [H, W, C]."""
    rows, columns, depth = np.ogrid[:height, :width, :channels]
    smooth = (rows * 9 + columns * 5 + depth * 40) * 2**bits // 256
    noise = rng.integers(0, max(2, 2**bits // 8), (height, width, channels))
    return np.asarray((smooth + noise) % 2**bits, np.uint16 if bits > 8 else np.uint8)


def png_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Every colour type, bit depth and interlacing with each filter, palettes, transparency, and animation."""
    kinds = [(colour, bits) for colour, depths in png_files.BIT_DEPTHS.items() for bits in depths]
    filters: tuple[tuple[int, ...], ...] = ((0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4))
    for (colour, bits), interlaced, (width, height), used in product(kinds, (False, True), _SIZES, filters):
        samples = textured(rng, width, height, png_files.CHANNELS[colour], bits)
        palette = rng.integers(0, 256, (2**bits, 3), np.uint8) if colour == png_files.PALETTE else None
        options: dict[str, Any] = {}
        match int(rng.integers(5)):
            case 0:  # chunks that change no pixel
                options = {
                    "before": [png_files.chunk(b"gAMA", struct.pack(">I", 45455)), png_files.chunk(b"sRGB", b"\0")]
                }
            case 1:
                options = {"pieces": 7, "after": [png_files.chunk(b"tEXt", b"Comment\0x")]}
            case 2:  # an animation whose default image is not one of its frames
                options = {
                    "before": [png_files.chunk(b"acTL", struct.pack(">II", 1, 0))],
                    "after": [
                        png_files.chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0)),
                        png_files.chunk(b"fdAT", bytes(12)),
                    ],
                }
            case 3:
                options = {"trailing": b"PK\x03\x04 whatever follows"}
        data = png_files.write_png(
            samples, bits, colour, palette=palette, interlaced=interlaced, filters=used, **options
        )
        yield f"png colour {colour} bits {bits} interlaced {interlaced} {used}", data, _read_png(data)


def _read_png(data: bytes) -> UInt8Image:
    """Decode with pypng, which is written in Python."""
    width, height, rows, info = png.Reader(bytes=data).read()
    bits = int(info["bitdepth"])
    samples = np.array([list(row) for row in rows], np.int64).reshape(height, width, int(info["planes"]))
    if "palette" in info:
        return np.array([colour[:3] for colour in info["palette"]], np.uint8)[samples[..., 0]]
    samples = samples[..., : 1 if info["greyscale"] else 3]
    return rgb(samples >> 8 if bits == 16 else samples * 255 // (2**bits - 1))


def tiff_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Every photometric meaning, bit depth and layout, with each compression and predictor, on several pages."""
    colours: list[tuple[str, int, dict[str, Any]]] = [
        ("minisblack", 1, {}),
        ("miniswhite", 1, {}),
        ("minisblack", 2, {"extrasamples": ["unassalpha"]}),
        ("rgb", 3, {}),
        ("rgb", 4, {"extrasamples": ["unassalpha"]}),
        ("rgb", 5, {"extrasamples": ["unassalpha", "unspecified"]}),
        ("separated", 4, {}),
        ("palette", 1, {}),
    ]
    layouts: list[dict[str, Any]] = [
        {},
        {"rowsperstrip": 1},
        {"rowsperstrip": 7},
        {"tile": (16, 16)},
        {"tile": (32, 16)},
    ]
    compressions: list[dict[str, Any]] = [
        {},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw"},
        {"compression": "lzw", "predictor": True},
        {"compression": "packbits"},
    ]
    for (colour, channels, more), bits, layout, compression in product(colours, (8, 16), layouts, compressions):
        if bits == 16 and colour in ("separated", "palette"):
            continue
        width, height = _SIZES[int(rng.integers(1, len(_SIZES)))]
        samples = textured(rng, width, height, channels, bits)
        options = {"photometric": colour, **more, **layout, **compression}
        if colour == "palette":
            options["colormap"] = rng.integers(0, 65536, (3, 256), np.uint16)
        separate = channels > 1 and bool(rng.integers(2))
        stored = (
            np.ascontiguousarray(np.moveaxis(samples, 2, 0))
            if separate
            else samples.squeeze(2)
            if channels == 1
            else samples
        )
        options |= {"planarconfig": "separate" if separate else "contig"} if channels > 1 else {}
        big = {"bigtiff": bool(rng.integers(2)), "byteorder": "<>"[int(rng.integers(2))]}
        data = _write_tiff(stored, options, big, thumbnail=bool(rng.integers(2)))
        yield f"tiff {bits} bits {options} {big}", data, _read_tiff(data)
    for bits, colour, strip in product((1, 2, 4, 12), ("minisblack", "miniswhite"), (1, 5, 18)):
        for width, height in _SIZES:
            samples = textured(rng, width, height, 1, bits)[..., 0]
            data = packed_tiff(samples, bits, 1 if colour == "minisblack" else 0, strip)
            scaled = samples >> 4 if bits == 12 else samples.astype(np.int64) * 255 // (2**bits - 1)
            if colour == "miniswhite":
                scaled = (4095 - samples) >> 4 if bits == 12 else 255 - scaled
            yield f"tiff {bits} bits {colour} rows {strip}", data, rgb(scaled)


def _write_tiff(stored: npt.NDArray[Any], options: dict[str, Any], big: dict[str, Any], *, thumbnail: bool) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **big) as writer:
        if thumbnail:
            writer.write(np.full((8, 8), 3, np.uint8), photometric="minisblack", subfiletype=1, metadata=None)
        writer.write(stored, metadata=None, **options)
        writer.write(np.zeros((4, 4), np.uint8), photometric="minisblack", metadata=None)  # a further page
    return buffer.getvalue()


def _read_tiff(data: bytes) -> UInt8Image:
    """Decode with tifffile and imagecodecs."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = next(item for item in file.pages if isinstance(item, tifffile.TiffPage) and not item.subfiletype & 1)
        samples: npt.NDArray[Any] = page.asarray()
        if page.planarconfig == 2:
            samples = np.moveaxis(samples, 0, 2)
        bits, photometric, colours = page.bitspersample, page.photometric, page.colormap
        if photometric == 3:
            assert colours is not None
            return np.moveaxis(colours[:, samples] >> 8, 0, -1).astype(np.uint8)
        if photometric == 5:
            return np.asarray(Image.fromarray(np.ascontiguousarray(samples), "CMYK").convert("RGB"))
        samples = samples[..., None] if samples.ndim == 2 else samples
        samples = samples[:, :, : 3 if photometric == 2 else 1]
        if photometric == 0:
            samples = 2**bits - 1 - samples
        return rgb(samples >> 8 if bits == 16 else samples)


def packed_tiff(samples: npt.NDArray[Any], bits: int, photometric: int, rows_per_strip: int) -> bytes:
    """Write gray samples of any bit depth tag by tag; lines begin with a byte."""
    height, width = samples.shape
    binary = (samples[..., None].astype(np.int64) >> np.arange(bits - 1, -1, -1)) & 1
    lines = np.packbits(binary.astype(np.uint8).reshape(height, -1), axis=1)
    strips = [lines[top : top + rows_per_strip].tobytes() for top in range(0, height, rows_per_strip)]
    offsets = (8 + np.cumsum([0, *map(len, strips)])[:-1]).tolist()
    body = b"".join(strips)
    arrays_at = 8 + len(body)
    counts = [len(strip) for strip in strips]
    many = len(strips) > 1
    arrays = struct.pack(f"<{2 * len(strips)}I", *offsets, *counts) if many else b""
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric),
        (273, 4, len(strips), arrays_at if many else offsets[0]), (277, 3, 1, 1), (278, 4, 1, rows_per_strip),
        (279, 4, len(strips), arrays_at + 4 * len(strips) if many else counts[0]),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    header = b"II*\x00" + struct.pack("<I", arrays_at + len(arrays))
    return header + body + arrays + struct.pack("<H", len(tags)) + entries + bytes(4)


def jpeg_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Gray, YCbCr, RGB and CMYK; each subsampling; baseline and progressive; restart markers; metadata."""
    for (width, height), subsampling, progressive, restart, quality in product(
        ((8, 8), (17, 9), (48, 33)), ("4:4:4", "4:2:2", "4:2:0", "gray", "rgb"), (False, True), (0, 1, 3), (30, 95)
    ):
        channels = 1 if subsampling == "gray" else 3
        image = Image.fromarray(textured(rng, width, height, channels, 8).squeeze())
        options: dict[str, Any] = {"quality": quality, "progressive": progressive, "optimize": bool(rng.integers(2))}
        if restart:
            options["restart_marker_blocks"] = restart
        if subsampling.startswith("4"):
            options["subsampling"] = subsampling
        if subsampling == "rgb":
            options["keep_rgb"] = True
        if rng.integers(2):
            options["comment"] = "from the differential test"
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", **options)
        data = buffer.getvalue() + (b"\x00\xff\xd8 behind the end" if rng.integers(3) == 0 else b"")
        yield f"jpeg {width}x{height} {subsampling} {options}", data, rgb(imagecodecs.jpeg8_decode(buffer.getvalue()))
    for sampling, (width, height) in product(("411", "440", "444", "422", "420"), ((8, 8), (31, 50), (64, 16))):
        image_array = np.asarray(textured(rng, width, height, 3, 8), np.uint8)
        data = bytes(imagecodecs.jpeg8_encode(image_array, 90, subsampling=sampling))
        yield f"jpeg {sampling}", data, rgb(imagecodecs.jpeg8_decode(data))
    for stored, (width, height), progressive in product(("CMYK", "YCCK"), ((8, 8), (31, 50)), (False, True)):
        inks = np.asarray(textured(rng, width, height, 4, 8), np.uint8)
        if progressive:
            buffer = io.BytesIO()
            Image.fromarray(inks, "CMYK").save(buffer, "JPEG", quality=90, progressive=True)
            data = buffer.getvalue()
        else:
            data = bytes(imagecodecs.jpeg8_encode(255 - inks, 90, colorspace="CMYK", outcolorspace=stored))
        # The Adobe marker, which every encoder writes, means that the values are inverted.
        decoded = np.ascontiguousarray(255 - imagecodecs.jpeg8_decode(data, outcolorspace="CMYK"))
        yield f"jpeg {stored}", data, np.asarray(Image.fromarray(decoded, "CMYK").convert("RGB"))


def bmp_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Every header, bit depth, row order and bit field, and run-length encoding."""
    for (width, height), bits, header, top_down in product(
        _SIZES, (1, 2, 4, 8, 16, 24, 32), (12, 16, 40, 52, 56, 64, 108, 124), (False, True)
    ):
        if (top_down and header in (12,)) or (header in (12, 16, 64) and bits in (16, 32)):
            continue
        pixels, expected, palette = bmp_files.pixels(rng, width, height, bits)
        data = bmp_files.write_bmp(pixels, bits, header, palette=palette, top_down=top_down)
        yield f"bmp {bits} bits header {header} top down {top_down}", data, expected
    for (width, height), (bits, masks) in product(_SIZES, bmp_files.MASKS):
        pixels, expected = bmp_files.fields(rng, width, height, bits, masks)
        for header in (40, 56, 124):
            yield f"bmp fields {bits} {masks}", bmp_files.write_bmp(pixels, bits, header, masks=masks), expected
    for (width, height), bits, _ in product(_SIZES, (4, 8), range(10)):
        pixels, expected, palette = bmp_files.pixels(rng, width, height, bits)
        yield f"bmp rle{bits}", bmp_files.write_rle(rng, pixels, bits, palette), expected


def webp_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Lossy and lossless, with and without alpha, and with metadata."""
    for (width, height), channels, lossless, exif in product(_SIZES, (3, 4), (False, True), (False, True)):
        for quality in (5, 20, 60, 95):
            samples = np.asarray(textured(rng, width, height, channels, 8), np.uint8)
            buffer = io.BytesIO()
            more: dict[str, Any] = {"exif": Image.Exif().tobytes()} if exif else {}
            Image.fromarray(samples).save(buffer, "WEBP", lossless=lossless, quality=quality, exact=True, **more)
            data = buffer.getvalue() + b"behind the end"
            yield (
                f"webp {channels} {lossless} {quality}",
                data,
                rgb(imagecodecs.webp_decode(buffer.getvalue())[..., :3]),
            )
