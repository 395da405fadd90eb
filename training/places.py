"""The place of a training view in its image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ViewPlace:
    """The place of a training view: of a whole image, or of a tile.

    Attributes:
        image: Index of the image file.
        box: Left, top, width and height of the view, relative to the sides of the image.
    """

    image: int
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
