"""Golden samples, and the relative difference that the parity certificate is based on."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.bundle.arrays import Float32Map, UInt8Image
from service.untrusted_zip import BadZip, UnpackLimitExceeded, open_zip, unpack

# Three entries with short names.
_MAX_DIRECTORY_BYTES = 1024
# numpy pads the header of an array to 128 bytes; longer ones belong to data types that no sample has.
_MAX_HEADER_BYTES = 1024
_NPY_MAGIC = b"\x93NUMPY\x01\x00"


@dataclass(frozen=True)
class GoldenSample:
    """A prepared input and its expected result: torch's, or that of the graph itself if it is not an fp32 graph.

    Attributes:
        image: uint8 [H, W, 3], RGB, of the graph's input size.
        anomaly_map: float32 [h, w].
        score_gain: Factor on the image score; None where the method has none.
    """

    image: UInt8Image
    anomaly_map: Float32Map
    score_gain: float | None

    def to_bytes(self) -> bytes:
        """Return the sample as the content of an `.npz` file."""
        buffer = io.BytesIO()
        arrays: dict[str, npt.NDArray[Any]] = {"image": self.image, "anomaly_map": self.anomaly_map}
        if self.score_gain is not None:
            arrays["score_gain"] = np.array(self.score_gain, np.float32)
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, image_shape: tuple[int, ...], map_shape: tuple[int, ...]) -> GoldenSample:
        """Read a sample from the content of an `.npz` file.

        The content is not trusted: only the expected arrays are unpacked, each to its expected size at most, and array
        headers are compared with what is expected before the data is used.

        Args:
            data: The content of the file.
            image_shape: Shape of the image, [H, W, 3].
            map_shape: Shape of the anomaly map, [h, w].

        Raises:
            ValueError: The content is not a golden sample with these shapes. The text completes a sentence.
        """
        expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "image.npy": (image_shape, np.dtype(np.uint8)),
            "anomaly_map.npy": (map_shape, np.dtype(np.float32)),
            "score_gain.npy": ((), np.dtype(np.float32)),
        }
        files: dict[str, bytes] = {}
        try:
            with open_zip(io.BytesIO(data), _MAX_DIRECTORY_BYTES) as opened:
                for entry in opened.infolist():
                    name = entry.filename
                    if name not in expected or name in files:
                        raise BadZip(f"it contains {name[:100]!r}, which is unknown or repeated.")
                    shape, dtype = expected[name]
                    files[name] = unpack(opened, entry, _MAX_HEADER_BYTES + math.prod(shape) * dtype.itemsize)
        except UnpackLimitExceeded as error:
            raise ValueError(f"an array is larger than the geometry of the input allows ({image_shape}).") from error
        except BadZip as error:
            raise ValueError(str(error)) from error
        if missing := {"image.npy", "anomaly_map.npy"} - files.keys():
            raise ValueError(f"it contains no {sorted(missing)[0]}.")
        arrays = {name: _read_array(name, data, *expected[name]) for name, data in files.items()}
        gain = arrays.get("score_gain.npy")
        return cls(arrays["image.npy"], arrays["anomaly_map.npy"], None if gain is None else float(gain))


def golden_bytes(image_shape: tuple[int, ...], map_shape: tuple[int, ...]) -> int:
    """Return the size of an unpacked sample in bytes, which is also the most that its file may have."""
    return math.prod(image_shape) + 4 * math.prod(map_shape) + 4 * _MAX_HEADER_BYTES


def parity_difference(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Return the difference of two results of the same graph: largest deviation over largest expected magnitude.

    Deviations are relative to the largest magnitude in the array, not to each value: an anomaly map contains zeros,
    where a relative difference per value is undefined. Export and the service's self-test use this one definition.

    Args:
        expected: The expected result, any shape.
        actual: What the graph computed, same shape.

    Returns:
        A number >= 0; infinity where the shapes differ or a value is not finite.
    """
    reference, result = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if reference.shape != result.shape or not np.isfinite(result).all():
        return math.inf
    scale = max(float(np.abs(reference).max(initial=0.0)), 1e-12)
    return float(np.abs(reference - result).max(initial=0.0)) / scale


def _read_array(name: str, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Read an `.npy` file whose shape and type are known. `numpy.load` would allocate what the header states.

    Raises:
        ValueError: It is something else.
    """
    if not data.startswith(_NPY_MAGIC):
        raise ValueError(f"{name} is not an array in version 1.0 of the .npy format.")
    header = io.BytesIO(data[len(_NPY_MAGIC) : _MAX_HEADER_BYTES])
    try:
        stated = np.lib.format.read_array_header_1_0(header, max_header_size=_MAX_HEADER_BYTES)
    except Exception as error:  # numpy evaluates the header as a Python literal, which fails in many ways
        raise ValueError(f"{name} has a header that cannot be read.") from error
    if stated != (shape, False, dtype):
        raise ValueError(f"{name} states {stated[2]} {list(stated[0])}, expected {dtype} {list(shape)}.")
    start = len(_NPY_MAGIC) + header.tell()
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {len(data) - start} bytes of data, which does not match its header.")
    # A copy, because arrays over bytes cannot be written to.
    return np.frombuffer(data, dtype, offset=start).reshape(shape).copy()
