"""Phrases of the messages of libraries, which must not appear in messages to users."""

from __future__ import annotations

import re

_PHRASES = (
    # pydantic and FastAPI
    "Input should", "Field required", "Extra inputs", "valid dictionary", "should match pattern", "should have",
    "unable to parse", "JSON decode error", "Value error,", "validation error", "timezone info", "Expecting value",
    "EOF while parsing", "recursion limit",
    # zipfile, zlib, gzip
    "BadZipFile", "Bad magic number", "Bad CRC-32", "Error -3", "while decompressing", "File is not a zip file",
    "incorrect header check", "password required", "Corrupt extra field",
    # numpy
    "allow_pickle", "magic string", "cannot reshape", "buffer is smaller", "read_array_header", "NumPy array header",
    # onnx and ONNX Runtime
    "DecodeError", "Error parsing message", "ONNXRuntimeError", "onnxruntime", "INVALID_GRAPH", "checker.cc",
    "Type Error:", "ShapeInferenceError", "InvalidProtobuf", "onnx.", "torch.",
    # libjpeg-turbo, libpng, libtiff, Pillow, OpenCV, struct
    "tjDecompress", "Bogus", "Corrupt JPEG data", "extraneous bytes", "premature end of data", "libpng", "IDAT:",
    "cannot identify image", "image file is truncated", "broken data stream", "OpenCV(", "unpack requires",
    "TIFFReadDirectory", "decoder error",
    # the standard library and others
    "isoformat", "Errno", "codec can't", "sqlite3.", "psycopg", "Background on this error", "Traceback", "Exception",
    "Invalid statement", "Expected ']'", "tomllib", "<class ", "object has no attribute",
)  # fmt: skip
_ANY = re.compile("|".join(map(re.escape, _PHRASES)))


def assert_own(text: str) -> None:
    """Check that a message contains no phrase of a library."""
    assert [found[0] for found in _ANY.finditer(text)] == [], text
