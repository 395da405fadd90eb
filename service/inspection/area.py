"""Which part of an image is judged: inside the region of interest (ROI) and outside everything that is to be ignored.

Polygons are in pixels of the image that was sent. The anomaly map knows cells only, so a cell is judged when at
least half of its area lies inside some ROI polygon and inside no ignore polygon. By area and not by its centre, because
a thin serial number may fill most of a cell without covering its centre, or cover the centre and little else.
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

LEAST_SHARE = 0.5
# Points per cell and direction at which a polygon is asked whether it covers them: shares are right to about 1 / 64.
_SAMPLES = 8
# Points per direction with which it is asked whether polygons leave anything at all.
_LOOK = 256


@dataclass(frozen=True)
class Area:
    """What is judged of an image.

    Attributes:
        roi: Only what lies in one of these polygons; none means everything.
        ignore: Nothing that lies in one of these.
    """

    roi: tuple[Polygon, ...] = ()
    ignore: tuple[Polygon, ...] = ()

    def has_judged_part(self, width: float = math.inf, height: float = math.inf) -> bool:
        """Whether the ignore polygons leave anything of ROI and image. Without an ROI and with an image of which
        the size is not known they do.
        """
        if self.roi:
            corners = np.array([point for polygon in self.roi for point in polygon], np.float64)
            (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        elif math.isfinite(width) and math.isfinite(height):
            left, top, right, bottom = 0, 0, width, height
        else:
            return True
        return bool(_covered(self, _steps(left, right, _LOOK), _steps(top, bottom, _LOOK)).any())

    def corner_outside(self, width: float, height: float) -> str | None:
        """The corner that lies outside an image of this size, in words; None where none does."""
        for kind, polygons in (("ROI", self.roi), ("ignore", self.ignore)):
            for number, polygon in enumerate(polygons, 1):
                for x, y in polygon:
                    if not (0 <= x <= width and 0 <= y <= height):
                        return f"{kind} polygon {number} has a corner at ({x:g}, {y:g}), outside the image"
        return None


EVERYTHING = Area()


@lru_cache(maxsize=64)
def judged_cells(area: Area, map_hw: tuple[int, int], image_wh: tuple[int, int]) -> BoolMask | None:
    """The cells of an anomaly map that are judged.

    Args:
        area: What is judged.
        map_hw: Height and width of the map, in cells.
        image_wh: Width and height of the image that was sent, in pixels; the map covers all of it.

    Returns:
        bool [h, w], read-only, at least one cell; None where every cell is judged.

    Raises:
        AreaMismatch: A polygon reaches beyond the image, so it was drawn for another one; or no cell is left.
    """
    if area == EVERYTHING:
        return None
    if (where := area.corner_outside(*image_wh)) is not None:
        raise AreaMismatch(where, *image_wh)
    height, width = map_hw
    xs, ys = _steps(0, image_wh[0], width * _SAMPLES), _steps(0, image_wh[1], height * _SAMPLES)
    covered = _covered(area, xs, ys).reshape(height, _SAMPLES, width, _SAMPLES)
    cells = np.asarray(covered.mean(axis=(1, 3)) >= LEAST_SHARE)
    if not cells.any():
        raise AreaMismatch("ROI and ignore polygons leave no cell of the anomaly map by at least half", *image_wh)
    cells.setflags(write=False)
    return cells


def _steps(start: float, end: float, count: int) -> npt.NDArray[np.float64]:
    """The middles of so many equal steps from start to end."""
    return np.asarray(start + (np.arange(count) + 0.5) * ((end - start) / count), np.float64)


def _covered(area: Area, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> BoolMask:
    """Which points of a grid are judged: bool [len(ys), len(xs)]."""
    inside = np.full((len(ys), len(xs)), not area.roi)
    for polygon in area.roi:
        inside |= _inside(polygon, xs, ys)
    for polygon in area.ignore:
        inside &= ~_inside(polygon, xs, ys)
    return inside


def _inside(polygon: Polygon, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> BoolMask:
    """Which points of a grid lie in a polygon: those with an odd number of its edges to their left."""
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
