"""Regions: connected parts of an anomaly map above a threshold, and filters for them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from service.bundle.arrays import Float32Map
from service.inspection.area import BoolMask

MAX_REGIONS = 50
# Samples per cell and direction in the interpolated map, odd; see `_refine`. The large maps of tiled images use fewer:
# their cells are small relative to the image, and more samples would take too much memory.
_FINER, _FINER_ON_LARGE_MAPS = 5, 3
_LARGE_MAP_CELLS = 512 * 512


@dataclass(frozen=True)
class Region:
    """A connected part of the image with patches above the threshold of the verdict.

    All coordinates are pixels of the image that was sent, with the origin at its upper left corner.

    Attributes:
        bbox: x, y, width, height.
        polygon: Outer contour as [x, y] points, clockwise on the screen; for a region merged from several pieces, their
            convex hull.
        area_px: Area in pixels; for merged pieces, the sum of their areas.
        peak: Highest map value (times the score gain) in the region.
        peak_xy: Position of the peak.
    """

    bbox: tuple[int, int, int, int]
    polygon: tuple[tuple[int, int], ...]
    area_px: int
    peak: float
    peak_xy: tuple[int, int]


@dataclass(frozen=True)
class RegionFilter:
    """Filters for regions. Regions are merged first, then filtered, then counted. The default changes nothing.

    Attributes:
        merge_distance_px: Pieces with at most this many pixels between them, in x and in y, become one region.
        border_margin_px: A region that lies completely within this distance of the image's edge is dropped.
        min_area_px: A region with a smaller `area_px` is dropped.
        min_peak: A region with a lower `peak` is dropped.
        max_count: At most this many regions are reported, strongest first. This limits the report and does not change
            the verdict.
    """

    merge_distance_px: float = 0.0
    border_margin_px: float = 0.0
    min_area_px: float = 0.0
    min_peak: float = -math.inf
    max_count: int = MAX_REGIONS


NO_FILTER = RegionFilter()


@dataclass(frozen=True)
class FoundRegions:
    """Result of a search for regions.

    Attributes:
        kept: Regions that pass the filters, strongest peak first, at most `max_count`.
        dropped: Number of dropped regions by the first filter that applies: "border", "area" or "peak".
    """

    kept: tuple[Region, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


def find_regions(
    anomaly_map: Float32Map,
    level: float,
    image_wh: tuple[int, int],
    filters: RegionFilter = NO_FILTER,
    judged: BoolMask | None = None,
) -> FoundRegions:
    """Find connected regions strictly above a threshold.

    Args:
        anomaly_map: float32 [h, w], times the score gain.
        level: Threshold on the map's values.
        image_wh: Width and height of the image that was sent, in pixels.
        filters: Filters for the regions.
        judged: bool [h, w], the cells that are judged; None means all. Regions end at their border.

    Returns:
        At least one region, kept or dropped, exactly if a judged cell is above the threshold.
    """
    above = anomaly_map > level if judged is None else (anomaly_map > level) & judged
    if not above.any():
        return FoundRegions()
    fine = _refine(anomaly_map, judged)
    mask = (fine > level).astype(np.uint8)
    per_sample = (image_wh[0] / fine.shape[1], image_wh[1] / fine.shape[0])
    count, labels, stats = _label(mask, filters.merge_distance_px, per_sample)
    kept, dropped = [], Counter[str]()
    for label in range(1, count):
        region = _region(fine, labels, label, stats[label], image_wh)
        if (reason := _reason(region, labels, label, stats[label], filters, per_sample)) is None:
            kept.append(region)
        else:
            dropped[reason] += 1
    kept.sort(key=lambda region: -region.peak)
    return FoundRegions(tuple(kept[: filters.max_count]), dict(dropped))


def _refine(anomaly_map: Float32Map, judged: BoolMask | None) -> Float32Map:
    """Interpolate the map, so that outlines follow the defect and not the grid of cells.

    The factor is odd, so every cell centre coincides with a sample. These samples are set to the exact cell value, so
    smoothing cannot remove a single cell above the threshold. Cells that are not judged become minus infinity, and
    their values do not influence judged cells.
    """
    values = anomaly_map if judged is None else np.where(judged, anomaly_map, anomaly_map.min())
    height, width = values.shape
    finer = _FINER if values.size <= _LARGE_MAP_CELLS else _FINER_ON_LARGE_MAPS
    fine = cv2.resize(values, (width * finer, height * finer), interpolation=cv2.INTER_LINEAR)
    fine[finer // 2 :: finer, finer // 2 :: finer] = values
    if judged is not None:
        fine[~np.repeat(np.repeat(judged, finer, axis=0), finer, axis=1)] = -np.inf
    return np.asarray(fine, np.float32)


def _label(
    mask: npt.NDArray[np.uint8], merge_distance_px: float, per_sample: tuple[float, float]
) -> tuple[int, npt.NDArray[Any], npt.NDArray[Any]]:
    """Label the regions.

    Returns:
        The number of regions plus one, their labels as int32 [h, w], and x, y, width, height and area of each.
    """
    # Dilation by n samples connects pieces across a gap of n samples.
    growth_y, growth_x = (
        min(int(merge_distance_px / size), samples) for size, samples in zip(per_sample[::-1], mask.shape, strict=True)
    )
    if growth_x == growth_y == 0:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        return count, labels, stats
    grown = cv2.dilate(mask, np.ones((growth_y + 1, growth_x + 1), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(grown, connectivity=8)
    labels *= mask
    for label in range(1, count):
        left, top, width, height = (int(value) for value in stats[label, :4])
        pieces = cv2.boundingRect((labels[top : top + height, left : left + width] == label).astype(np.uint8))
        stats[label] = (left + pieces[0], top + pieces[1], pieces[2], pieces[3], 0)
    stats[:, cv2.CC_STAT_AREA] = np.bincount(labels.ravel(), minlength=count)
    return count, labels, stats


def _reason(
    region: Region,
    labels: npt.NDArray[Any],
    label: int,
    stat: npt.NDArray[Any],
    filters: RegionFilter,
    per_sample: tuple[float, float],
) -> str | None:
    """Return the name of the filter that drops a region, or None."""
    if filters.border_margin_px > 0 and not _reaches_inside(labels, label, stat, filters.border_margin_px, per_sample):
        return "border"
    if region.area_px < filters.min_area_px:
        return "area"
    return "peak" if region.peak < filters.min_peak else None


def _reaches_inside(
    labels: npt.NDArray[Any], label: int, stat: npt.NDArray[Any], margin_px: float, per_sample: tuple[float, float]
) -> bool:
    """Return whether at least one sample of a region has the margin as its distance from every image edge."""
    inner = []
    for axis, (start, length) in ((0, (stat[1], stat[3])), (1, (stat[0], stat[2]))):
        size, samples = per_sample[1 - axis], labels.shape[axis]
        centres = (np.arange(start, start + length) + 0.5) * size
        inner.append(np.flatnonzero(np.minimum(centres, samples * size - centres) >= margin_px) + start)
    rows, columns = inner
    if not (len(rows) and len(columns)):
        return False
    return bool((labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == label).any())


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
    # The box covers whole cells and is computed with integers: a rounding error must not move it outside the image.
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
    """Return the outer contour in image pixels, empty if it encloses no area."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = contours[0] if len(contours) == 1 else cv2.convexHull(np.concatenate(contours))
    points = outline.reshape(-1, 2)
    if len(points) < 3:
        return ()
    return tuple((int(x), int(y)) for x, y in (points + corner + 0.5) * scale)
