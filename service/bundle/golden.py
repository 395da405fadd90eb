"""Golden samples, and the relative difference that the parity certificate is based on."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.bundle.arrays import MAX_HEADER_BYTES, ArrayForm, Float32Map, UInt8Image, read_npz


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

        The content is not trusted; see `read_npz`.

        Args:
            data: The content of the file.
            image_shape: Shape of the image, [H, W, 3].
            map_shape: Shape of the anomaly map, [h, w].

        Raises:
            ValueError: The content is not a golden sample with these shapes. The text completes a sentence.
        """
        forms = {
            "image": ArrayForm(image_shape, np.dtype(np.uint8)),
            "anomaly_map": ArrayForm(map_shape, np.dtype(np.float32)),
            "score_gain": ArrayForm((), np.dtype(np.float32)),
        }
        arrays = read_npz(data, forms, {"image", "anomaly_map"})
        gain = arrays.get("score_gain")
        return cls(arrays["image"], arrays["anomaly_map"], None if gain is None else float(gain))


def golden_bytes(image_shape: tuple[int, ...], map_shape: tuple[int, ...]) -> int:
    """Return the size of an unpacked sample in bytes, which is also the most that its file may have."""
    return math.prod(image_shape) + 4 * math.prod(map_shape) + 4 * MAX_HEADER_BYTES


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
