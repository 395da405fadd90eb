"""The guard before the graph: images that are not worth a verdict get none.

What is measured and which limit is broken, the decision core knows. What is known here only is the row of images
that a station sent: a camera or a frame grabber that hangs sends its last image for ever, and where that one showed a
good part, every part would pass.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from service.deployment.lease import ActiveProduct
from service.inspection.quality import InvalidReason, QualityViolation, frozen_frame_violation
from service.inspection.records import PreparedImage
from service.recipes.quality_check import check_quality

# Stations are named by the sender; beyond so many the longest unheard of is forgotten.
MAX_STATIONS = 4096


class FrozenFrames:
    """Counts, for every product and station, how often the same image came in a row. Forgets it at a restart."""

    def __init__(self, max_stations: int = MAX_STATIONS) -> None:
        self._last: OrderedDict[tuple[str, str | None], tuple[str, int]] = OrderedDict()
        self._max_stations = max_stations
        self._lock = threading.Lock()

    def count(self, product: str, station: str | None, sha256: str) -> int:
        """Take note of an image.

        Returns:
            How many in a row are equal, this one included.
        """
        with self._lock:
            before, repeats = self._last.pop((product, station), ("", 0))
            repeats = repeats + 1 if before == sha256 else 1
            self._last[product, station] = (sha256, repeats)
            if len(self._last) > self._max_stations:
                self._last.popitem(last=False)
            return repeats


class QualityGuard:
    """Says what speaks against judging an image."""

    def __init__(self) -> None:
        self._frames = FrozenFrames()

    def objections(
        self, active: ActiveProduct, image: PreparedImage, station: str | None
    ) -> tuple[QualityViolation, ...]:
        """Everything that speaks against judging an image, by the limits that are in force.

        Args:
            active: The product's bundle and recipe.
            image: The image, read and measured.
            station: Where it was taken, as the sender says.
        """
        recipe = active.recipe.recipe
        found = check_quality(image, active.inspector.quality_limits, recipe)
        frozen_after = recipe.quality.frozen_after
        if frozen_after is not None and InvalidReason.FROZEN_FRAME not in recipe.quality.off:
            repeats = self._frames.count(active.bundle.manifest.product, station, image.sha256)
            if repeats >= frozen_after:
                found += (frozen_frame_violation(repeats, frozen_after),)
        return found
