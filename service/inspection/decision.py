"""Thresholds make verdicts: pass, review or fail, and the regions that show why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from service.bundle import Float32Map

# Samples per cell and direction on which regions are found; odd, see `_refine`.
_FINER = 5


class Decision(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict, not a password
    REVIEW = "review"
    FAIL = "fail"


@dataclass(frozen=True)
class Thresholds:
    """Levels of the raw score. A part fails strictly above `fail` and needs review strictly above `review`.

    Raises:
        ValueError: `review` is greater than `fail`, or a level is not finite.
    """

    fail: float
    review: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.fail) and np.isfinite(self.review) and self.review <= self.fail):
            raise ValueError(f"expected finite review <= fail, got review {self.review} and fail {self.fail}")


@dataclass(frozen=True)
class Region:
    """A connected part of the picture whose patches lie above the level of the verdict.

    All coordinates are pixels of the image that was sent, origin at its upper left corner.

    Attributes:
        bbox: x, y, width, height.
        polygon: Outer contour as [x, y] points, clockwise on the screen.
        area_px: Area in pixels.
        peak: Highest map value (times the score gain) inside.
        peak_xy: Where the peak lies.
    """

    bbox: tuple[int, int, int, int]
    polygon: tuple[tuple[int, int], ...]
    area_px: int
    peak: float
    peak_xy: tuple[int, int]


def decide(score: float, thresholds: Thresholds) -> Decision:
    """The verdict. A score that is not a number fails: what cannot be judged is not good."""
    if not score <= thresholds.fail:
        return Decision.FAIL
    return Decision.REVIEW if score > thresholds.review else Decision.PASS


def find_regions(
    anomaly_map: Float32Map, level: float, image_wh: tuple[int, int], *, limit: int = 50
) -> tuple[Region, ...]:
    """Connected regions strictly above a level, strongest peak first.

    Args:
        anomaly_map: float32 [h, w], already times the score gain.
        level: Threshold on the map's values.
        image_wh: Width and height of the image that was sent, in pixels.
        limit: The strongest so many are returned.

    Returns:
        At least one region where any cell of the map lies above the level.
    """
    if not (anomaly_map > level).any():
        return ()
    fine = _refine(anomaly_map)
    count, labels, stats, _ = cv2.connectedComponentsWithStats((fine > level).astype(np.uint8), connectivity=8)
    regions = [_region(fine, labels, label, stats[label], image_wh) for label in range(1, count)]
    return tuple(sorted(regions, key=lambda region: -region.peak)[:limit])


def _refine(anomaly_map: Float32Map) -> Float32Map:
    """Interpolate the map so that outlines follow the defect and not the grid.

    The factor is odd, so every cell's centre is a sample of its own; it is set to the exact value, and a single cell
    above the level cannot be smoothed away.
    """
    height, width = anomaly_map.shape
    fine = cv2.resize(anomaly_map, (width * _FINER, height * _FINER), interpolation=cv2.INTER_LINEAR)
    fine[_FINER // 2 :: _FINER, _FINER // 2 :: _FINER] = anomaly_map
    return np.asarray(fine, np.float32)


def _region(
    fine: Float32Map,
    labels: npt.NDArray[Any],
    label: int,
    stat: npt.NDArray[Any],
    image_wh: tuple[int, int],
) -> Region:
    scale = np.array(image_wh) / np.array(fine.shape[::-1])
    left, top, width, height, area = (int(value) for value in stat)
    mask = labels[top : top + height, left : left + width] == label
    values = np.where(mask, fine[top : top + height, left : left + width], -np.inf)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    # Whole cells that the region touches, in whole numbers: a rounding error must not push a box out of the picture.
    fine_h, fine_w = fine.shape
    x, y = left * image_wh[0] // fine_w, top * image_wh[1] // fine_h
    right, bottom = -(-(left + width) * image_wh[0] // fine_w), -(-(top + height) * image_wh[1] // fine_h)
    return Region(
        bbox=(x, y, right - x, bottom - y),
        polygon=_outline(mask, (left, top), scale) or ((x, y), (right, y), (right, bottom), (x, bottom)),
        area_px=max(1, round(area * float(scale.prod()))),
        peak=float(values.max()),
        peak_xy=(int((left + column + 0.5) * scale[0]), int((top + row + 0.5) * scale[1])),
    )


def _outline(
    mask: npt.NDArray[np.bool_], corner: tuple[int, int], scale: npt.NDArray[np.float64]
) -> tuple[tuple[int, int], ...]:
    """The outer contour in image pixels, empty where it encloses nothing."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    points = max(contours, key=len).reshape(-1, 2)
    if len(points) < 3:
        return ()
    return tuple((int(x), int(y)) for x, y in (points + corner + 0.5) * scale)
