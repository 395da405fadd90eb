"""Detection of frozen cameras: a station that sends the same image repeatedly.

A camera or frame grabber that hangs may send its last image indefinitely. If that image showed a good part, every
following part would pass. Therefore identical images in succession are counted per product and station.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from service.inspection.quality import QualityViolation, frozen_frame_violation
from service.recipes.recipe import Recipe
from service.schemas.sections import InvalidReason

# Senders choose the names of stations, so their number is bounded: the least recently seen one is dropped.
MAX_STATIONS = 4096


class FrozenCameraDetector:
    """Counts identical images in succession per product and station, in memory only.

    Args:
        max_stations: Maximum number of stations to keep a count for.
    """

    def __init__(self, max_stations: int = MAX_STATIONS) -> None:
        self._last: OrderedDict[tuple[str, str | None], tuple[str, int]] = OrderedDict()
        self._max_stations = max_stations
        self._lock = threading.Lock()

    def count(self, product: str, station: str | None, sha256: str) -> int:
        """Record an image and return how many images in succession are identical.

        Args:
            product: Name of the product.
            station: Name of the station, or None if the sender did not name it.
            sha256: Digest of the encoded image.

        Returns:
            Number of identical images in succession, including this one.
        """
        with self._lock:
            previous, repeats = self._last.pop((product, station), ("", 0))
            repeats = repeats + 1 if previous == sha256 else 1
            self._last[product, station] = (sha256, repeats)
            if len(self._last) > self._max_stations:
                self._last.popitem(last=False)
            return repeats

    def check(self, product: str, recipe: Recipe, station: str | None, sha256: str) -> tuple[QualityViolation, ...]:
        """Record an image and check the recipe's limit on identical images.

        Args:
            product: Name of the product.
            recipe: The recipe in force; `quality.frozen_after` is the limit, None disables the check.
            station: Name of the station, or None if the sender did not name it.
            sha256: Digest of the encoded image.

        Returns:
            One violation if the limit is reached, otherwise nothing.
        """
        limit = recipe.quality.frozen_after
        if limit is None or InvalidReason.FROZEN_FRAME in recipe.quality.off:
            return ()
        repeats = self.count(product, station, sha256)
        return (frozen_frame_violation(repeats, limit),) if repeats >= limit else ()
