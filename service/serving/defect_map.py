"""Where the regions of failed parts and of those that need review accumulate on the part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import cv2
import numpy as np
import numpy.typing as npt
from sqlalchemy import Engine

from service.bundle.arrays import UInt8Image
from service.deployment.stored_image import decode_stored
from service.schemas.report import DefectMap, DefectSpot
from service.store.artefacts.files import ArtefactFiles
from service.store.errors import ArtefactGone, StoredImageUnreadable, StoreUnavailable, UnknownInspection
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import get_inspection, read_columns
from service.store.models import InspectionRow
from service.store.review_queries import labels_of

MAX_INSPECTIONS = 2000
"""Most inspections whose regions are read, the newest ones."""
GRID_SIDE = 96
"""Number of cells along the longer side of the image."""
IMAGE_SIDE = 720
"""Longer side of the image of a good part, in pixels."""
_MAX_SIZES = 16
_MAX_SPOTS = 5
_PAGE = 500
_CANDIDATES = 200
_ATTEMPTS = 3
_FRACTION_BITS = 4
_MAX_COORDINATE = 2**16
_TABLE = InspectionRow.__table__
Counts = npt.NDArray[np.int32]


@dataclass
class _Sums:
    """Sums of the regions in images of one size.

    Attributes:
        counts: int32 [rows, columns], number of inspections with a region in the cell.
        inspections: Number of inspections.
    """

    counts: Counts
    inspections: int = 0


@dataclass(frozen=True)
class FoundDefects:
    """A defect map and the image of a good part below it.

    Attributes:
        defects: The map.
        part: uint8 [h, w, 3], RGB, with a longer side of at most `IMAGE_SIDE`; None if no such image is stored.
    """

    defects: DefectMap
    part: UInt8Image | None


@dataclass
class DefectMapper:
    """Sums up stored regions in short steps.

    Args:
        engine: The database.
        files: The stored images.
        which: The inspections; those with another decision than fail and review are left out.

    Attributes:
        found: The result after the last step; None without a region.
    """

    engine: Engine
    files: ArtefactFiles
    which: InspectionFilter
    found: FoundDefects | None = None
    _sums: dict[tuple[int, int], _Sums] = field(default_factory=dict)

    def steps(self) -> Iterator[None]:
        """Do the work in short steps.

        Raises:
            StoreUnavailable: The database cannot be read; in a step.
        """
        columns = (_TABLE.c.id, _TABLE.c.regions, _TABLE.c.image_width, _TABLE.c.image_height)
        defective = replace(self.which, decisions=("fail", "review"))
        before: UUID | None = None
        count, is_cut = 0, False
        while True:
            page = read_columns(self.engine, columns, defective, before=before, limit=_PAGE)
            for row in page:
                self._add(row["regions"], (row["image_width"], row["image_height"]))
            yield None
            count += len(page)
            if len(page) < _PAGE:
                break
            before = UUID(page[-1]["id"])
            if count >= MAX_INSPECTIONS:
                is_cut = bool(read_columns(self.engine, columns[:1], defective, before=before, limit=1))
                break
        if self._sums:
            self.found = self._result(is_cut=is_cut)
            yield None

    def _add(self, regions: Sequence[dict[str, Any]], size: tuple[int, int]) -> None:
        if not regions or (size not in self._sums and len(self._sums) >= _MAX_SIZES):
            return
        sums = self._sums.setdefault(size, _Sums(np.zeros(grid_of(size), np.int32)))
        covered = np.zeros(sums.counts.shape, np.uint8)
        for region in regions:
            cv2.fillPoly(covered, [_in_cells(region["polygon"], size, covered.shape)], 1, shift=_FRACTION_BITS)
        sums.counts += covered
        sums.inspections += 1

    def _result(self, *, is_cut: bool) -> FoundDefects:
        size, sums = max(self._sums.items(), key=lambda item: item[1].inspections)
        inspection_id, part = _good_part(self.engine, self.files, self.which, size)
        defects = DefectMap(
            inspections=sums.inspections,
            other_sizes=sum(each.inspections for each in self._sums.values()) - sums.inspections,
            is_cut=is_cut,
            image_width=size[0],
            image_height=size[1],
            counts=sums.counts.tolist(),
            spots=find_spots(sums.counts, size),
            image_inspection_id=inspection_id,
        )
        return FoundDefects(defects, part)


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Return the number of rows and columns of the grid over an image.

    Args:
        size: Width and height of the image, in pixels.
    """
    width, height = size
    factor = GRID_SIDE / max(width, height)
    return max(1, round(height * factor)), max(1, round(width * factor))


def find_spots(counts: Counts, size: tuple[int, int]) -> list[DefectSpot]:
    """Return the places with the most inspections, most first, with at least a quarter of the first one's.

    A place is connected, and consists of cells with at least three quarters of its largest number. Places are at least
    an eighth of the image's longer side apart.

    Args:
        counts: int32 [rows, columns], number of inspections with a region in the cell.
        size: Width and height of the image, in pixels.
    """
    remaining = counts.copy()
    apart = max(counts.shape) // 4 + 1  # diameter of the neighbourhood, in cells
    neighbourhood = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (apart, apart))
    spots: list[DefectSpot] = []
    least = max(1, int(counts.max()) // 4)
    while len(spots) < _MAX_SPOTS and (most := int(remaining.max())) >= least:
        _, labels = cv2.connectedComponents((remaining * 4 >= most * 3).astype(np.uint8))
        place = labels == labels.flat[int(remaining.argmax())]
        rows, columns = np.nonzero(place & (remaining == most))
        x, y = (columns.mean() + 0.5) * size[0] / counts.shape[1], (rows.mean() + 0.5) * size[1] / counts.shape[0]
        spots.append(DefectSpot(x=int(x), y=int(y), inspections=most))
        remaining[cv2.dilate(place.astype(np.uint8), neighbourhood) > 0] = 0
    return spots


def _in_cells(
    polygon: Sequence[Sequence[float]], size: tuple[int, int], shape: tuple[int, ...]
) -> npt.NDArray[np.int32]:
    """Return a polygon in fixed-point coordinates of the grid, in which the centre of the first cell is 0."""
    points = np.clip(np.asarray(polygon, np.float64).reshape(-1, 2), 0, _MAX_COORDINATE)
    cells = points * (shape[1] / size[0], shape[0] / size[1]) - 0.5
    return np.asarray(np.rint(cells * 2**_FRACTION_BITS), np.int32)


def _good_part(
    engine: Engine, files: ArtefactFiles, which: InspectionFilter, size: tuple[int, int]
) -> tuple[str | None, UInt8Image | None]:
    """Return a typical good part: of the newest passed ones whose image is stored, the one with the median score."""
    columns = (
        _TABLE.c.id, _TABLE.c.score, _TABLE.c.image_width, _TABLE.c.image_height, _TABLE.c.artefacts_removed_at
    )  # fmt: skip
    page = read_columns(engine, columns, replace(which, decisions=("pass",)), limit=_CANDIDATES)
    labels = labels_of(engine, [row["id"] for row in page])
    usable = [
        row
        for row in page
        if (row["image_width"], row["image_height"]) == size
        and row["artefacts_removed_at"] is None
        and (row["id"] not in labels or labels[row["id"]].label == "good")
    ]
    middle = sorted(row["score"] for row in usable)[len(usable) // 2] if usable else 0.0
    for row in sorted(usable, key=lambda row: abs(row["score"] - middle))[:_ATTEMPTS]:
        try:
            record = get_inspection(engine, UUID(row["id"]))
            return record.id, _shrunk(decode_stored(record, files.image_of(record)))
        except (ArtefactGone, StoredImageUnreadable, StoreUnavailable, UnknownInspection):
            continue  # the report is useful without it
    return None, None


def _shrunk(rgb: UInt8Image) -> UInt8Image:
    factor = IMAGE_SIDE / max(rgb.shape[:2])
    if factor >= 1:
        return rgb
    size = max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
