"""Files that are no images are named, with what to send instead."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from service.file_formats import detect
from service.inspection.decoding.decoder import ImageLimits, decode
from service.inspection.errors import NotAnImage, UnsupportedImage
from tests.running_service import GOOD


def media(brand: bytes, *compatible: bytes) -> bytes:
    brands = b"".join(compatible)
    return struct.pack(">I", 16 + len(brands)) + b"ftyp" + brand + bytes(4) + brands + bytes(64)


def saved(format_name: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, format_name)
    return buffer.getvalue()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 4), np.uint8))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "name", "advice"),
    [
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document", "export the page as PNG"),
        (b"\n\n%PDF-1.4\n", "a PDF document", "export the page as PNG"),
        (media(b"heic", b"mif1", b"heic"), "a HEIC image", "set the phone or camera to JPEG"),
        (media(b"mif1", b"heic"), "a HEIC image", "set the phone or camera to JPEG"),
        (media(b"mif1", b"avif"), "an AVIF image", "convert it to PNG"),
        (media(b"avif", b"mif1"), "an AVIF image", "convert it to PNG"),
        (media(b"isom", b"avc1", b"mp41"), "a video (MP4)", "save a single frame"),
        (media(b"mp42"), "a video (MP4)", "save a single frame"),
        (media(b"qt  "), "a video (QuickTime)", "save a single frame"),
        (media(b"crx ", b"isom"), "a RAW file of a camera (Canon CR3)", "convert it to TIFF"),
        (b"RIFF\x10\x00\x00\x00AVI LIST", "a video (AVI)", "save a single frame"),
        (b"\x1a\x45\xdf\xa3" + bytes(20), "a video (Matroska", "save a single frame"),
        (b"<!DOCTYPE html>\n<html><body>404", "an HTML page", "check the URL"),
        (b"\xef\xbb\xbf  <HTML><head>", "an HTML page", "check the URL"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG drawing", "export it as PNG"),
        (b"<svg width='3'></svg>", "an SVG drawing", "export it as PNG"),
        (b'<?xml version="1.0"?><a/>', "an XML document", "send the bytes of an image"),
        (gzip.compress(GOOD), "a gzip file", "unpack it"),
        (tarred(), "a tar archive", "unpack it"),
        (zipped("a.png"), "a zip archive", "endpoint for batches"),
        (zipped("[Content_Types].xml"), "an Office document", "save the image in it"),
        (saved("GIF"), "a GIF image", "export it as PNG"),
        (saved("PPM"), "a Netpbm image", "convert it to PNG"),
        (saved("ICO"), "an icon", "export it as PNG"),
        (array(), "a NumPy array", "save the image as PNG"),
        (bytes(128) + b"DICM" + bytes(9), "a DICOM file", "convert it to TIFF"),
        (b"FUJIFILMCCD-RAW 0201", "a RAW file of a camera (Fujifilm RAF)", "convert it to TIFF"),
        (b"IIU\x00" + bytes(8), "a RAW file of a camera (Panasonic RW2)", "convert it to TIFF"),
        (b"IIRO" + bytes(8), "a RAW file of a camera (Olympus ORF)", "convert it to TIFF"),
        (base64.b64encode(GOOD), "an image as base64 text", "decode it and send the bytes"),
        (b"data:image/png;base64,iVBORw0KGgo", "a data URL", "decode its base64 text"),
        (json.dumps({"image": "a.png"}).encode(), "a JSON document", "send the bytes of an image"),
        (b"C:\\images\\part.png", "text", "send the bytes of an image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS", "git lfs pull"),
        (bytes(5000), "a file of zero bytes", "written and transferred completely"),
        (b"", "it is empty", "written and transferred completely"),
        (b"\x12\x34\x99\xfe\x00\x01", "it begins with the bytes 12 34 99 fe 00 01", "a camera buffer needs its layout"),
    ],
)  # fmt: skip
def test_file_that_is_no_image_is_named(data: bytes, name: str, advice: str) -> None:
    with pytest.raises(NotAnImage) as caught:
        decode(data, ImageLimits())

    assert name in caught.value.detail
    assert advice in caught.value.detail
    assert "image/png" in caught.value.detail


def directory(*entries: tuple[int, int, int, int], start: bytes) -> bytes:
    """A TIFF file with one directory, at the offset 16."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return start + struct.pack("<H", len(entries)) + body + bytes(4)


CR2 = b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(4)
PLAIN = b"II*\x00\x10\x00\x00\x00" + bytes(8)
PREVIEW = [(256, 4, 1, 8), (257, 4, 1, 8), (262, 3, 1, 2)]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (directory(*PREVIEW, start=CR2), "a RAW file of a camera (Canon CR2)"),
        (directory((254, 4, 1, 1), *PREVIEW, (50706, 1, 4, 1), start=PLAIN), "a RAW file of a camera (DNG)"),
        (directory(*PREVIEW[:2], (262, 3, 1, 32803), (50706, 1, 4, 1), start=PLAIN), "a RAW file of a camera (DNG)"),
    ],
)
def test_raw_file_that_is_based_on_tiff_is_named(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        decode(data, ImageLimits())

    assert name in caught.value.detail
    assert "convert it to TIFF or PNG" in caught.value.detail


def test_dng_tag_alone_does_not_refuse_an_image() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(buffer, "TIFF", tiffinfo={50706: b"\x01\x04\x00\x00"})

    assert decode(buffer.getvalue(), ImageLimits())[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_supported_image_is_no_other_format(format_name: str) -> None:
    assert detect(saved(format_name)) is None
