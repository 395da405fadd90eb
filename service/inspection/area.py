"""The judged area of an image: inside the region of interest (ROI) and outside all ignore polygons.

Polygons are in pixels of the image that was sent. The anomaly map consists of cells, so a cell is judged when at least
half of its area lies inside an ROI polygon and outside all ignore polygons. The area decides, not the centre: a thin
serial number may fill most of a cell without covering its centre, or cover the centre and little else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from service.inspection.errors import AreaMismatch

Polygon = tuple[tuple[float, float], ...]
BoolMask = npt.NDArray[np.bool_]

MIN_JUDGED_SHARE = 0.5
# Sample points per cell and direction: the area shares are accurate to about 1 / 64.
_SAMPLES = 8
# Sample points per direction for the check whether polygons leave any part of the image.
_COARSE_SAMPLES = 256


@dataclass(frozen=True)
class Corner:
    """A corner of a polygon.

    Attributes:
        polygons: The list that contains the polygon, "ROI" or "ignore".
        number: Number of the polygon in it, from 1.
        x: Its x coordinate, in pixels.
        y: Its y coordinate, in pixels.
    """

    polygons: str
    number: int
    x: float
    y: float

    def __str__(self) -> str:
        """Describe the corner."""
        return f"{self.polygons} polygon {self.number} has a corner at ({self.x:g}, {self.y:g})"


@dataclass(frozen=True)
class Area:
    """The part of an image that is judged.

    Attributes:
        roi: Polygons of the region of interest. An empty tuple means the whole image.
        ignore: Polygons that are excluded.
    """

    roi: tuple[Polygon, ...] = ()
    ignore: tuple[Polygon, ...] = ()

    def has_judged_part(self, width: float = math.inf, height: float = math.inf) -> bool:
        """Return whether the ignore polygons leave any part of the ROI or image.

        Without an ROI and with an unknown image size the result is True.
        """
        if self.roi:
            corners = np.array([point for polygon in self.roi for point in polygon], np.float64)
            (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        elif math.isfinite(width) and math.isfinite(height):
            left, top, right, bottom = 0, 0, width, height
        else:
            return True
        return bool(_covered(self, _steps(left, right, _COARSE_SAMPLES), _steps(top, bottom, _COARSE_SAMPLES)).any())

    def corner_outside(self, width: float, height: float) -> Corner | None:
        """Return the first polygon corner outside an image of this size, or None if there is none."""
        for kind, polygons in (("ROI", self.roi), ("ignore", self.ignore)):
            for number, polygon in enumerate(polygons, 1):
                for x, y in polygon:
                    if not (0 <= x <= width and 0 <= y <= height):
                        return Corner(kind, number, x, y)
        return None


EVERYTHING = Area()


@lru_cache(maxsize=64)
def judged_cells(area: Area, map_hw: tuple[int, int], image_wh: tuple[int, int]) -> BoolMask | None:
    """Return the cells of an anomaly map that are judged.

    Args:
        area: The judged area.
        map_hw: Height and width of the map, in cells.
        image_wh: Width and height of the image that was sent, in pixels. The map covers all of it.

    Returns:
        bool [h, w], read-only, with at least one True cell; None if every cell is judged.

    Raises:
        AreaMismatch: A polygon extends beyond the image, so it was drawn for another image size; or no cell is left.
    """
    if area == EVERYTHING:
        return None
    if (corner := area.corner_outside(*image_wh)) is not None:
        raise AreaMismatch(f"{corner}, outside the image", *image_wh)
    height, width = map_hw
    xs, ys = _steps(0, image_wh[0], width * _SAMPLES), _steps(0, image_wh[1], height * _SAMPLES)
    covered = _covered(area, xs, ys).reshape(height, _SAMPLES, width, _SAMPLES)
    cells = np.asarray(covered.mean(axis=(1, 3)) >= MIN_JUDGED_SHARE)
    if not cells.any():
        raise AreaMismatch("ROI and ignore polygons leave less than half of every cell of the anomaly map", *image_wh)
    cells.setflags(write=False)
    return cells


def _steps(start: float, end: float, count: int) -> npt.NDArray[np.float64]:
    """Return the centres of `count` equal intervals from start to end."""
    return np.asarray(start + (np.arange(count) + 0.5) * ((end - start) / count), np.float64)


def _covered(area: Area, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> BoolMask:
    """Return which points of a grid are judged: bool [len(ys), len(xs)]."""
    inside = np.full((len(ys), len(xs)), not area.roi)
    for polygon in area.roi:
        inside |= _inside(polygon, xs, ys)
    for polygon in area.ignore:
        inside &= ~_inside(polygon, xs, ys)
    return inside


def _inside(polygon: Polygon, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> BoolMask:
    """Return which points of a grid lie in a polygon: those with an odd number of its edges to their left."""
    starts = np.array(polygon, np.float64)
    ends = np.roll(starts, -1, axis=0)
    inside = np.zeros((len(ys), len(xs)), np.bool_)
    for row, y in enumerate(ys):
        meets = (starts[:, 1] <= y) != (ends[:, 1] <= y)
        if meets.any():
            (x0, y0), (x1, y1) = starts[meets].T, ends[meets].T
            edges = np.sort(x0 + (y - y0) * (x1 - x0) / (y1 - y0))
            inside[row] = np.searchsorted(edges, xs) % 2 == 1
    return inside
