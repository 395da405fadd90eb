"""Golden samples, and the relative difference that the parity certificate is based on."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.bundle.arrays import Float32Map, UInt8Image


@dataclass(frozen=True)
class GoldenSample:
    """A prepared input and the result that torch computed for it.

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
    def from_bytes(cls, data: bytes) -> GoldenSample:
        """Read a sample from the content of an `.npz` file.

        Raises:
            ValueError, KeyError, OSError: The content is not a golden sample.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            gain = float(arrays["score_gain"]) if "score_gain" in arrays else None
            return cls(arrays["image"], arrays["anomaly_map"], gain)


def parity_difference(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Return the difference of two results of the same graph: largest deviation over largest expected magnitude.

    Deviations are relative to the largest magnitude in the array, not to each value: an anomaly map contains zeros,
    where a relative difference per value is undefined. Export and the service's self-test use this one definition.

    Args:
        expected: What torch computed, any shape.
        actual: What the graph computed, same shape.

    Returns:
        A number >= 0; infinity where the shapes differ or a value is not finite.
    """
    reference, result = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if reference.shape != result.shape or not np.isfinite(result).all():
        return math.inf
    scale = max(float(np.abs(reference).max(initial=0.0)), 1e-12)
    return float(np.abs(reference - result).max(initial=0.0)) / scale
