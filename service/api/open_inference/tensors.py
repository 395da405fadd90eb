"""Tensors of the Open Inference Protocol v2, in JSON and in Triton's binary tensor extension.

Source: KServe, Open Inference Protocol, REST API; Triton Inference Server, binary tensor data extension.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.api.open_inference.errors import InvalidInferRequest

_LENGTH = struct.Struct("<I")
_NUMPY = {"FP32": "<f4", "FP64": "<f8"}
MAX_JSON_BYTES = 8 * 2**20
"""Largest JSON document, in bytes. The interpreter runs nothing else while it parses one."""
MAX_JSON_LISTS = 300_000
"""Most lists and objects in a JSON document: enough for every pixel of an image of 512 x 512."""


@dataclass(frozen=True)
class TensorHeader:
    """The description of a tensor in a request.

    Attributes:
        name: Its name.
        datatype: Its datatype, such as `UINT8` or `BYTES`.
        shape: Its shape.
        data: Its elements if they are in the JSON document; None if they follow it in binary form.
        binary_size: Number of bytes of the binary form; None if the elements are in the JSON document.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any | None
    binary_size: int | None


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of a response.

    Attributes:
        name: Its name.
        datatype: `FP32`, `FP64` or `BYTES`.
        values: The elements: an array, or an object array of bytes.
    """

    name: str
    datatype: str
    values: npt.NDArray[Any]

    def header(self, *, is_binary: bool) -> tuple[dict[str, Any], bytes]:
        """Return the description of the tensor for the response, and its binary form, which is empty in JSON.

        JSON has no NaN: values that do not exist are null.
        """
        document: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": list(self.values.shape)}
        if is_binary:
            data = self._binary()
            return {**document, "parameters": {"binary_data_size": len(data)}}, data
        flat = self.values.ravel().tolist()
        if self.datatype == "BYTES":
            return {**document, "data": [item.decode() for item in flat]}, b""
        return {**document, "data": [value if math.isfinite(value) else None for value in flat]}, b""

    def _binary(self) -> bytes:
        if self.datatype == "BYTES":
            return b"".join(_LENGTH.pack(len(item)) + item for item in self.values.ravel())
        data: bytes = self.values.astype(_NUMPY[self.datatype], copy=False).tobytes()
        return data


def images_of(tensor: TensorHeader, binary: memoryview | None, limit: int) -> Iterator[bytes | npt.NDArray[np.uint8]]:
    """Return the images of an input tensor.

    Args:
        tensor: Its description.
        binary: Its binary form; None if the elements are in the JSON document.
        limit: Maximum number of images.

    Yields:
        An encoded image, or the pixels of an image, uint8 [height, width] or [height, width, 3] RGB.

    Raises:
        InvalidInferRequest: The tensor is no image.
    """
    match tensor.datatype:
        case "BYTES":
            yield from _encoded_images(tensor, binary, limit)
        case "UINT8":
            yield from _pixel_images(tensor, binary, limit)
        case other:
            raise InvalidInferRequest(
                f"Input {tensor.name!r} has the datatype {other[:32]!r}. Expected UINT8 (pixels) or BYTES "
                "(encoded images)."
            )


def _encoded_images(tensor: TensorHeader, binary: memoryview | None, limit: int) -> Iterator[bytes]:
    count = math.prod(tensor.shape)
    _check_count(tensor, count, limit)
    if binary is not None:
        yield from _split_bytes(tensor, binary, count)
        return
    data = tensor.data
    if not isinstance(data, list) or len(data) != count or not all(isinstance(item, str) for item in data):
        raise InvalidInferRequest(f"Input {tensor.name!r} must have {count} texts in `data`, each an image in base64.")
    for item in data:
        try:
            yield base64.b64decode(item, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidInferRequest(
                f"Input {tensor.name!r} is not base64. JSON cannot hold the bytes of an image; encode them, or use the "
                "binary tensor extension."
            ) from error


def _split_bytes(tensor: TensorHeader, binary: memoryview, count: int) -> Iterator[bytes]:
    position = 0
    for _ in range(count):
        if position + _LENGTH.size > len(binary):
            raise InvalidInferRequest(f"Input {tensor.name!r} ends before its {count} elements are complete.")
        (length,) = _LENGTH.unpack_from(binary, position)
        position += _LENGTH.size
        if length > len(binary) - position:
            raise InvalidInferRequest(f"Input {tensor.name!r} ends before its {count} elements are complete.")
        yield bytes(binary[position : position + length])
        position += length
    if position != len(binary):
        raise InvalidInferRequest(f"Input {tensor.name!r} has more bytes than its {count} elements.")


def _pixel_images(tensor: TensorHeader, binary: memoryview | None, limit: int) -> Iterator[npt.NDArray[np.uint8]]:
    shape = tensor.shape
    is_gray = len(shape) == 2 or (len(shape) == 3 and shape[-1] != 3)
    is_batch = len(shape) == 4 or (len(shape) == 3 and is_gray)
    if len(shape) not in {2, 3, 4} or (len(shape) == 4 and shape[-1] not in {1, 3}) or 0 in shape:
        raise InvalidInferRequest(
            f"Input {tensor.name!r} has the shape {list(shape)}. Expected [height, width], [height, width, 3], "
            "[n, height, width] or [n, height, width, 3], RGB."
        )
    _check_count(tensor, shape[0] if is_batch else 1, limit)
    size = math.prod(shape)
    if binary is not None:
        if len(binary) != size:
            raise InvalidInferRequest(
                f"Input {tensor.name!r} has {len(binary)} bytes, its shape {list(shape)} needs {size}."
            )
        pixels = np.frombuffer(binary, np.uint8)
    else:
        pixels = _json_pixels(tensor, size)
    images = pixels.reshape(shape)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    yield from images if is_batch else [images]


def _json_pixels(tensor: TensorHeader, size: int) -> npt.NDArray[np.uint8]:
    try:
        values = _flatten(tensor.data)
    except (TypeError, ValueError) as error:
        raise InvalidInferRequest(
            f"Input {tensor.name!r} must have {size} whole numbers from 0 to 255 in `data`, flat or in "
            "rows of equal length."
        ) from error
    if len(values) != size:
        raise InvalidInferRequest(
            f"Input {tensor.name!r} must have {size} whole numbers in `data`, it has {len(values)}."
        )
    return np.frombuffer(values, np.uint8)


def _flatten(data: object, depth: int = 4) -> bytes:
    """Return nested lists of numbers from 0 to 255 as bytes, without an array of what the client sent.

    Raises:
        TypeError: An element is not a number, or the lists are nested too deeply.
        ValueError: A number is out of range, or rows have different lengths.
    """
    if not isinstance(data, list):
        raise TypeError("not a list")
    if not data or not isinstance(data[0], list):
        return bytes(data)
    if depth == 1:
        raise TypeError("nested too deeply")
    rows = [_flatten(row, depth - 1) for row in data]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("rows of different lengths")
    return b"".join(rows)


def _check_count(tensor: TensorHeader, count: int, limit: int) -> None:
    if not 1 <= count <= limit:
        raise InvalidInferRequest(f"Input {tensor.name!r} has {count} images. Expected 1 to {limit}.")


def split_body(body: bytes, header_length: str | None) -> tuple[Any, memoryview]:
    """Return the JSON document of a request and the binary tensors that follow it.

    Args:
        body: The body.
        header_length: Header `Inference-Header-Content-Length`; None if the body is JSON only.

    Raises:
        InvalidInferRequest: The body has no valid JSON document, or a too large one.
    """
    length = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdecimal() or int(header_length) > length:
            raise InvalidInferRequest(
                f"The header Inference-Header-Content-Length is {header_length[:32]!r}. Expected the number of bytes "
                f"of the JSON document, at most {length}."
            )
        length = int(header_length)
    document = body[:length]
    if length > MAX_JSON_BYTES or document.count(b"[") + document.count(b"{") > MAX_JSON_LISTS:
        raise InvalidInferRequest(
            f"The JSON document has more than {MAX_JSON_BYTES} bytes or {MAX_JSON_LISTS} lists. Send the image as "
            "binary tensor, or as encoded image (BYTES)."
        )
    try:
        return json.loads(document), memoryview(body)[length:]
    except (ValueError, RecursionError) as error:
        raise InvalidInferRequest("The body is not a valid JSON document.") from error


def binary_parts(tensors: Sequence[TensorHeader], binary: memoryview) -> list[memoryview | None]:
    """Return the binary form of each tensor; None for tensors in the JSON document.

    Raises:
        InvalidInferRequest: The sizes do not add up to the bytes of the body.
    """
    parts: list[memoryview | None] = []
    position = 0
    for tensor in tensors:
        if tensor.binary_size is None:
            parts.append(None)
            continue
        end = position + tensor.binary_size
        if end > len(binary):
            raise InvalidInferRequest(f"The body ends before the {tensor.binary_size} bytes of input {tensor.name!r}.")
        parts.append(binary[position:end])
        position = end
    if position != len(binary):
        raise InvalidInferRequest(f"The body has {len(binary) - position} bytes more than its inputs.")
    return parts
