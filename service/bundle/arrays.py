"""Array types that the bundle and inspection packages share, and arrays in files that are not trusted."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.untrusted_zip import BadZip, UnpackLimitExceeded, open_zip, unpack

UInt8Image = npt.NDArray[np.uint8]
Float32Map = npt.NDArray[np.float32]

# Entries with short names.
_MAX_DIRECTORY_BYTES = 4096
# numpy pads the header of an array to 128 bytes; longer ones belong to data types that no array of a bundle has.
MAX_HEADER_BYTES = 1024
_NPY_MAGIC = b"\x93NUMPY\x01\x00"


@dataclass(frozen=True)
class ArrayForm:
    """The expected form of an array in a file.

    Attributes:
        shape: Its shape.
        dtype: Its data type.
        may_be_shorter: Whether the first dimension may be smaller.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    may_be_shorter: bool = False

    @property
    def max_bytes(self) -> int:
        """Return the largest size of the array in a file, with its header."""
        return MAX_HEADER_BYTES + math.prod(self.shape) * self.dtype.itemsize

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array may have this shape."""
        if self.may_be_shorter and len(shape) == len(self.shape):
            return 0 <= shape[0] <= self.shape[0] and shape[1:] == self.shape[1:]
        return shape == self.shape


def read_npz(data: bytes, forms: Mapping[str, ArrayForm], required: Set[str]) -> dict[str, npt.NDArray[Any]]:
    """Read arrays from the content of an `.npz` file.

    The content is not trusted: only the expected arrays are unpacked, each to its expected size at most, and array
    headers are compared with what is expected before the data is used.

    Args:
        data: The content of the file.
        forms: The arrays that it may contain, by name.
        required: The arrays that it must contain.

    Raises:
        ValueError: The content is something else. The text completes a sentence.
    """
    files: dict[str, bytes] = {}
    name = ""
    try:
        with open_zip(io.BytesIO(data), _MAX_DIRECTORY_BYTES) as opened:
            for entry in opened.infolist():
                name = entry.filename.removesuffix(".npy")
                if not entry.filename.endswith(".npy") or name not in forms or name in files:
                    raise BadZip(f"it contains {entry.filename[:100]!r}, which is unknown or repeated.")
                files[name] = unpack(opened, entry, forms[name].max_bytes)
    except UnpackLimitExceeded as error:
        raise ValueError(f"{name}.npy is larger than {forms[name].max_bytes} bytes, which no such array is.") from error
    except BadZip as error:
        raise ValueError(str(error)) from error
    if missing := required - files.keys():
        raise ValueError(f"it contains no {sorted(missing)[0]}.npy.")
    return {name: _read_array(f"{name}.npy", content, forms[name]) for name, content in files.items()}


def _read_array(name: str, data: bytes, form: ArrayForm) -> npt.NDArray[Any]:
    """Read an `.npy` file of an expected form. `numpy.load` would allocate what the header states.

    Raises:
        ValueError: It is something else.
    """
    if not data.startswith(_NPY_MAGIC):
        raise ValueError(f"{name} is not an array in version 1.0 of the .npy format.")
    header = io.BytesIO(data[len(_NPY_MAGIC) : MAX_HEADER_BYTES])
    try:
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(header, max_header_size=MAX_HEADER_BYTES)
    except Exception as error:  # numpy evaluates the header as a Python literal, which fails in many ways
        raise ValueError(f"{name} has a header that cannot be read.") from error
    if is_fortran or dtype != form.dtype or not form.fits(shape):
        raise ValueError(f"{name} states {dtype} {list(shape)}, expected {form.dtype} {list(form.shape)}.")
    start = len(_NPY_MAGIC) + header.tell()
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {len(data) - start} bytes of data, which does not match its header.")
    # A copy, because arrays over bytes cannot be written to.
    return np.frombuffer(data, dtype, offset=start).reshape(shape).copy()
