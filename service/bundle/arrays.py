"""Array types that the bundle and inspection packages share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt8Image = npt.NDArray[np.uint8]
Float32Map = npt.NDArray[np.float32]
