"""Detection of frozen cameras: a station that sends the same image repeatedly.

A camera or frame grabber that hangs may send its last image indefinitely. If that image showed a good part, every
following part would pass. Therefore identical images in succession are counted per product and station.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.inspection.quality import QualityViolation, frozen_frame_violation
from service.recipes.recipe import Recipe
from service.schemas.sections import InvalidReason

# Senders choose the names of stations, so their number is bounded: the least recently seen one is dropped.
MAX_STATIONS = 4096


@dataclass
class _Station:
    """What a station sent last.

    Attributes:
        sha256: Digest of the newest image that was stored.
        repeats: Number of identical images in succession that were stored.
        in_flight: Number of images by digest whose inspection has not ended yet.
    """

    sha256: str = ""
    repeats: int = 0
    in_flight: Counter[str] = field(default_factory=Counter)


class FrozenCameraDetector:
    """Counts identical images in succession per product and station, in memory only.

    An image counts once its inspection is stored: a client that sends it again after an error repeats a request, and
    its camera is not frozen.

    Args:
        max_stations: Maximum number of stations to keep a count for.
    """

    def __init__(self, max_stations: int = MAX_STATIONS) -> None:
        self._stations: OrderedDict[tuple[str, str | None], _Station] = OrderedDict()
        self._max_stations = max_stations
        self._lock = threading.Lock()

    @contextmanager
    def counting(self, product: str, station: str | None, sha256: str) -> Iterator[int]:
        """Count an image for the block, and permanently if the block succeeds.

        Args:
            product: Name of the product.
            station: Name of the station, or None if the sender did not name it.
            sha256: Digest of the encoded image.

        Yields:
            Number of identical images in succession, including this one and those that are being inspected.
        """
        with self._lock:
            state = self._stations.setdefault((product, station), _Station())
            self._stations.move_to_end((product, station))
            if len(self._stations) > self._max_stations:
                self._stations.popitem(last=False)
            state.in_flight[sha256] += 1
            stored = state.repeats if state.sha256 == sha256 else 0
            repeats = stored + state.in_flight[sha256]
        is_stored = False
        try:
            yield repeats
            is_stored = True
        finally:
            with self._lock:
                state.in_flight[sha256] -= 1
                if not state.in_flight[sha256]:
                    del state.in_flight[sha256]
                if is_stored:
                    state.repeats = state.repeats + 1 if state.sha256 == sha256 else 1
                    state.sha256 = sha256

    @contextmanager
    def checking(
        self, product: str, recipe: Recipe, station: str | None, sha256: str
    ) -> Iterator[tuple[QualityViolation, ...]]:
        """Check the recipe's limit on identical images. The image counts if the block succeeds.

        Args:
            product: Name of the product.
            recipe: The recipe in force; `quality.frozen_after` is the limit, None disables the check.
            station: Name of the station, or None if the sender did not name it.
            sha256: Digest of the encoded image.

        Yields:
            One violation if the limit is reached, otherwise nothing.
        """
        limit = recipe.quality.frozen_after
        if limit is None or InvalidReason.FROZEN_FRAME in recipe.quality.off:
            yield ()
            return
        with self.counting(product, station, sha256) as repeats:
            yield (frozen_frame_violation(repeats, limit),) if repeats >= limit else ()
