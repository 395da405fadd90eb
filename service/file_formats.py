"""Names of file formats that are often sent by mistake, with what to send instead.

The formats are detected from the first bytes. Nothing here decides whether a file is accepted: it only makes the
message of a refusal specific.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

HEAD_BYTES = 4096
"""Bytes that `detect` needs at most."""

_EXPORT = "export it as PNG or JPEG"
_FRAME = "save a single frame as PNG or JPEG"
_UNPACK = "unpack it and send the images in it"
_RAW = "a RAW file of a camera"
_DEVELOP = "convert it to TIFF or PNG, or set the camera to JPEG"


@dataclass(frozen=True)
class FileFormat:
    """A format that is not accepted.

    Attributes:
        name: Completes "it is".
        advice: What to do instead, as an imperative without a full stop.
    """

    name: str
    advice: str


_HEIC = FileFormat("a HEIC image (HEIF)", "set the phone or camera to JPEG, or convert it to JPEG or PNG")
_AVIF = FileFormat("an AVIF image", "convert it to PNG or JPEG")
_CR3 = FileFormat(f"{_RAW} (Canon CR3)", _DEVELOP)
_MP4 = FileFormat("a video (MP4)", _FRAME)
_HTML = FileFormat(
    "an HTML page, for example an error or login page of a web server",
    "check the URL or the program that the image comes from",
)
_TEXT = FileFormat("text", "send the bytes of an image file")
_BASE64 = FileFormat("an image as base64 text", "decode it and send the bytes")

# By the first bytes.
_SIGNATURES: Mapping[bytes, FileFormat] = {
    b"\x1f\x8b": FileFormat("a gzip file", _UNPACK),
    b"BZh": FileFormat("a bzip2 file", _UNPACK),
    b"\xfd7zXZ\x00": FileFormat("an xz file", _UNPACK),
    b"\x28\xb5\x2f\xfd": FileFormat("a Zstandard file", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": FileFormat("a 7z archive", _UNPACK),
    b"Rar!\x1a\x07": FileFormat("a RAR archive", _UNPACK),
    b"GIF87a": FileFormat("a GIF image", _EXPORT),
    b"GIF89a": FileFormat("a GIF image", _EXPORT),
    b"\x00\x00\x00\x0cjP  ": FileFormat("a JPEG 2000 image", _EXPORT),
    b"\xff\x4f\xff\x51": FileFormat("a JPEG 2000 image", _EXPORT),
    b"\x00\x00\x00\x0cJXL ": FileFormat("a JPEG XL image", _EXPORT),
    b"\xff\x0a": FileFormat("a JPEG XL image", _EXPORT),
    b"8BPS": FileFormat("a Photoshop document (PSD)", _EXPORT),
    b"\x00\x00\x01\x00": FileFormat("an icon (ICO)", _EXPORT),
    b"\x76\x2f\x31\x01": FileFormat("an OpenEXR image", "convert it to TIFF with 16 bits"),
    b"#?RADIANCE": FileFormat("a Radiance HDR image", "convert it to TIFF with 16 bits"),
    b"DDS ": FileFormat("a DirectDraw surface (DDS)", _EXPORT),
    b"\x93NUMPY": FileFormat("a NumPy array (.npy)", "save the image as PNG or TIFF"),
    b"\x89HDF\r\n": FileFormat("an HDF5 file", "save the image in it as PNG or TIFF"),
    b"SIMPLE  =": FileFormat("a FITS file", "convert it to TIFF"),
    b"\x1a\x45\xdf\xa3": FileFormat("a video (Matroska or WebM)", _FRAME),
    b"\x00\x00\x01\xba": FileFormat("a video (MPEG)", _FRAME),
    b"\x00\x00\x01\xb3": FileFormat("a video (MPEG)", _FRAME),
    b"FLV\x01": FileFormat("a video (Flash)", _FRAME),
    b"OggS": FileFormat("a video or audio file (Ogg)", _FRAME),
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": FileFormat("a video (Windows Media)", _FRAME),
    b"FUJIFILMCCD-RAW": FileFormat(f"{_RAW} (Fujifilm RAF)", _DEVELOP),
    b"IIU\x00": FileFormat(f"{_RAW} (Panasonic RW2)", _DEVELOP),
    b"IIRO": FileFormat(f"{_RAW} (Olympus ORF)", _DEVELOP),
    b"IIRS": FileFormat(f"{_RAW} (Olympus ORF)", _DEVELOP),
    b"MMOR": FileFormat(f"{_RAW} (Olympus ORF)", _DEVELOP),
    b"FOVb": FileFormat(f"{_RAW} (Sigma X3F)", _DEVELOP),
    b"\x00MRM": FileFormat(f"{_RAW} (Minolta MRW)", _DEVELOP),
    b"SQLite format 3\x00": FileFormat("a SQLite database", "send the bytes of an image file"),
    b"\x7fELF": FileFormat("a program (ELF)", "send the bytes of an image file"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": FileFormat("an Office document", "save the image in it as PNG or JPEG"),
    b"version https://git-lfs": FileFormat("a pointer of Git LFS", "fetch the file with `git lfs pull`"),
    b"data:image/": FileFormat("a data URL", "decode its base64 text and send the bytes"),
    b"/9j/": _BASE64,
    b"iVBORw0KGgo": _BASE64,
    b"%!PS": FileFormat("a PostScript document", _EXPORT),
}
_RIFF: Mapping[bytes, FileFormat] = {
    b"AVI ": FileFormat("a video (AVI)", _FRAME),
    b"WAVE": FileFormat("a sound file (WAV)", "send the bytes of an image file"),
}
# Brands of the ISO base media file format that are not videos in MP4.
_BRANDS: Mapping[bytes, FileFormat] = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), _HEIC),
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
    b"crx ": _CR3,
    b"qt  ": FileFormat("a video (QuickTime)", _FRAME),
}
_HTML_START = re.compile(rb"<!doctype html|<html|<head|<body", re.IGNORECASE)
_PNM_START = re.compile(rb"P[1-7fF]\s")
_CR2_START = b"II*\x00\x10\x00\x00\x00CR\x02\x00"
_ZIP_START = b"PK\x03\x04"


def detect(data: bytes) -> FileFormat | None:
    """Return the format that the first bytes identify, or None if it is not known.

    Args:
        data: The file, or at least its first `HEAD_BYTES`.
    """
    head = data[:HEAD_BYTES]
    for signature, found in _SIGNATURES.items():
        if head.startswith(signature):
            return found
    if head[4:8] == b"ftyp":
        return _detect_media(head)
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head.startswith(_ZIP_START):
        if b"[Content_Types].xml" in head:
            return FileFormat("an Office document", "save the image in it as PNG or JPEG")
        return FileFormat("a zip archive", "send the images one by one, or the archive to the endpoint for batches")
    if b"%PDF-" in head[:1024]:
        return FileFormat("a PDF document", "export the page as PNG or TIFF")
    if head[257:262] == b"ustar":
        return FileFormat("a tar archive", _UNPACK)
    if head[128:132] == b"DICM":
        return FileFormat("a DICOM file", "convert it to TIFF or PNG")
    if head[6:14] == b"HEAPCCDR":
        return FileFormat(f"{_RAW} (Canon CRW)", _DEVELOP)
    if _PNM_START.match(head):
        return FileFormat("a Netpbm image (PBM, PGM, PPM or PFM)", "convert it to PNG or TIFF")
    if head and not any(head):
        return FileFormat("a file of zero bytes", "check that the file was written and transferred completely")
    return _detect_text(head)


def detect_raw(data: bytes, has_dng_version: bool) -> FileFormat | None:
    """Return the format of a RAW file that is based on TIFF, or None if nothing identifies one.

    Args:
        data: The file, which begins as a TIFF file.
        has_dng_version: Whether its first directory has the tag DNGVersion.
    """
    if data.startswith(_CR2_START):
        return FileFormat(f"{_RAW} (Canon CR2)", _DEVELOP)
    return FileFormat(f"{_RAW} (DNG)", _DEVELOP) if has_dng_version else None


def _detect_media(head: bytes) -> FileFormat:
    """Return the format of an ISO base media file from its main brand or, if that is general, a compatible one."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
    if brands[0] in (b"mif1", b"msf1") and {b"avif", b"avis"} & set(brands):
        return _AVIF
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), _MP4)


def _detect_text(head: bytes) -> FileFormat | None:
    """Return the format of a text, or None if the bytes are not text."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _HTML_START.match(text):
        return _HTML
    if text.startswith((b"<?xml", b"<!--", b"<!DOCTYPE", b"<svg")):
        if b"<svg" in text:
            return FileFormat("an SVG drawing", _EXPORT)
        return _HTML if b"<html" in text.lower() else FileFormat("an XML document", "send the bytes of an image file")
    try:
        # The last character may be cut off by the limit on the bytes that are examined.
        plain = text[: len(text) - 3].decode("utf-8") if len(head) == HEAD_BYTES else text.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if len(plain) < 8 or not all(character.isprintable() or character in "\t\r\n" for character in plain):
        return None
    if plain[0] in "{[":
        return FileFormat("a JSON document", "send the bytes of an image file")
    return _TEXT
