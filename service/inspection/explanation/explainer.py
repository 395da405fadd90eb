"""Explain a cell of an anomaly map: what each source contributes to it, and which normal cells are nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from service.bundle.arrays import Float32Map, UInt8Image
from service.bundle.bundle import Bundle
from service.bundle.golden import parity_difference
from service.bundle.manifest import BankTensors
from service.inspection import tiling
from service.inspection.area import BoolMask
from service.inspection.errors import ExplanationDiffers, NoExplanation
from service.inspection.explanation.graph import ExplainedGraph, ExplainedMap
from service.inspection.runtime.session import SessionOptions


@dataclass(frozen=True)
class Box:
    """A rectangle, relative to the sides of an image: 0 is the left or upper edge, 1 the right or lower one."""

    left: float
    top: float
    width: float
    height: float

    def part(self, row: int, column: int, rows: int, columns: int) -> Box:
        """Return one of rows times columns equal parts."""
        width, height = self.width / columns, self.height / rows
        return Box(self.left + column * width, self.top + row * height, width, height)

    def part_at(self, x: float, y: float, rows: int, columns: int) -> tuple[int, int]:
        """Return row and column of the part that contains a point; of the nearest part for a point outside."""
        row, column = (y - self.top) / self.height * rows, (x - self.left) / self.width * columns
        return min(max(int(row), 0), rows - 1), min(max(int(column), 0), columns - 1)


WHOLE = Box(0, 0, 1, 1)


@dataclass(frozen=True)
class Contribution:
    """What a source adds to the value of a cell.

    Attributes:
        source: Name of the source.
        value: In units of the anomaly map. The contributions add up to the value of the cell.
    """

    source: str
    value: float


@dataclass(frozen=True)
class NearestCell:
    """The normal cell in a memory bank that is nearest to a cell.

    Attributes:
        bank: The memory bank.
        prototype: Index of the nearest prototype.
        distance: Distance to it, before it is weighted and smoothed.
        row: Row of the bank's cell at the place that is explained.
        column: Its column.
        box: Its place in the image.
    """

    bank: BankTensors
    prototype: int
    distance: float
    row: int
    column: int
    box: Box


@dataclass(frozen=True)
class CellExplanation:
    """The explanation of one cell of an anomaly map.

    Attributes:
        row: Row of the cell.
        column: Its column.
        box: Its place in the image.
        value: Its value in the map that was computed for the explanation.
        contributions: What the sources add to it, the largest first.
        nearest: For every memory bank, its nearest normal cell; the bank that contributes most first.
    """

    row: int
    column: int
    box: Box
    value: float
    contributions: tuple[Contribution, ...]
    nearest: tuple[NearestCell, ...]


class Explainer:
    """Explains the maps of one bundle, on one thread of the CPU. Not thread-safe.

    Args:
        bundle: The verified bundle.

    Raises:
        NoExplanation: Its manifest has no explanation, or one that does not match its graph.
        BundleIntegrity: Its graph has changed since it was verified.
    """

    def __init__(self, bundle: Bundle) -> None:
        explanation = bundle.manifest.explanation
        if explanation is None:
            raise NoExplanation(bundle.manifest.product, bundle.version)
        self.bundle = bundle
        self._explanation = explanation
        try:
            # The CPU is fast enough, and the memory of a GPU belongs to the inspections.
            self._graph = ExplainedGraph(bundle.read_model(), explanation, SessionOptions(provider="cpu", threads=1))
        except ValueError as error:
            raise NoExplanation(bundle.manifest.product, bundle.version, str(error)) from error

    def explain(
        self, prepared: UInt8Image, image_hw: tuple[int, int], stored_map: Float32Map, cell: tuple[int, int]
    ) -> CellExplanation:
        """Explain a cell. With a tiling, only the tiles that cover it are computed.

        Args:
            prepared: The image that was judged, prepared for the graph or its tiles, uint8 [H, W, 3], RGB.
            image_hw: Height and width of the image as it was sent.
            stored_map: Its anomaly map, float32 [h, w], times the score gain.
            cell: Row and column in the map.

        Raises:
            ExplanationDiffers: The map that is computed now differs from the stored one by more than the tolerance of
                the parity certificate, so it would explain another decision.
            NoExplanation: The tensors of the graph have other shapes than the manifest states.
        """
        geometry, (row, column) = self.bundle.manifest.input, cell
        box = WHOLE.part(row, column, *stored_map.shape)
        try:
            if geometry.tiling is None:
                view, seen = WHOLE, self._graph.run(prepared)
                whole, known = seen, np.ones(stored_map.shape, bool)
            else:
                view, seen, whole, known = self._run_tiles(prepared, image_hw, cell)
        except ValueError as error:
            raise NoExplanation(self.bundle.manifest.product, self.bundle.version, str(error)) from error
        self._check(stored_map, whole, known)
        values = whole.contributions[:, row, column]
        names = [source.name for source in self._explanation.sources]
        contributions = [Contribution(name, float(value)) for name, value in zip(names, values, strict=True)]
        contributions.sort(key=lambda one: -one.value)
        order = [one.source for one in contributions]
        nearest = [self._nearest(bank, seen, view, box) for bank in self._explanation.banks]
        nearest.sort(key=lambda one: order.index(one.bank.name))
        value = float(whole.anomaly_map[row, column])
        return CellExplanation(row, column, box, value, tuple(contributions), tuple(nearest))

    def close(self) -> None:
        """Free the memory of the graph."""
        self._graph.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _nearest(self, bank: BankTensors, seen: ExplainedMap, view: Box, box: Box) -> NearestCell:
        centre = box.left + box.width / 2, box.top + box.height / 2
        row, column = view.part_at(*centre, bank.rows, bank.columns)
        found = seen.banks[bank.name]
        return NearestCell(
            bank=bank,
            prototype=int(found.nearest[row, column]),
            distance=float(found.distances[row, column]),
            row=row,
            column=column,
            box=view.part(row, column, bank.rows, bank.columns),
        )

    def _run_tiles(
        self, prepared: UInt8Image, image_hw: tuple[int, int], cell: tuple[int, int]
    ) -> tuple[Box, ExplainedMap, ExplainedMap, BoolMask]:
        """Explain the tiles that cover a cell.

        Returns:
            The place of the tile in whose middle the cell is, as far as possible; its explanation; that of the image,
            blended like a map; and the cells of the map where it is complete, bool [h, w].
        """
        manifest = self.bundle.manifest
        grid = tiling.plan_tiles(image_hw, manifest.input)
        map_hw = manifest.map_height, manifest.map_width
        windows = tiling.tile_windows(grid, map_hw)
        corners, tiles = list(grid), list(tiling.cut(prepared, grid))
        covering = [
            number
            for number, window in enumerate(windows)
            if all(_contains(*pair) for pair in zip(window, cell, strict=True))
        ]
        found = {number: self._graph.run(tiles[number]) for number in covering}
        counts = [_count(windows, numbers) for numbers in (range(len(windows)), covering)]
        known = (counts[0] == counts[1]) & (counts[1] > 0)

        def blend(maps: Sequence[Float32Map]) -> Float32Map:
            blended = tiling.Blend(grid, map_hw)
            for number, one in zip(covering, maps, strict=True):
                blended.add(corners[number], one)
            with np.errstate(invalid="ignore"):  # cells without a tile
                return blended.finish()

        parts = [blend([one.contributions[k] for one in found.values()]) for k in range(len(self._explanation.sources))]
        whole = ExplainedMap(blend([one.anomaly_map for one in found.values()]), np.stack(parts), {})
        chosen = min(covering, key=lambda number: _distance(windows[number], cell))
        (top, left), (height, width) = corners[chosen], grid.source_hw
        tile_height, tile_width = grid.tile_hw
        view = Box(left / width, top / height, tile_width / width, tile_height / height)
        return view, found[chosen], whole, known

    def _check(self, stored_map: Float32Map, whole: ExplainedMap, known: BoolMask) -> None:
        """Compare the computed map with the stored one, and the sum of the contributions with the computed map."""
        tolerance = self.bundle.manifest.parity.tolerance
        if stored_map.shape != whole.anomaly_map.shape:
            raise ExplanationDiffers(self.bundle.version, float("inf"), tolerance)
        computed, total = whole.anomaly_map[known], whole.contributions.sum(axis=0)[known]
        difference = max(parity_difference(stored_map[known], computed), parity_difference(computed, total))
        if not difference <= tolerance:
            raise ExplanationDiffers(self.bundle.version, difference, tolerance)


def _contains(window: slice, position: int) -> bool:
    return bool(window.start <= position < window.stop)


def _distance(window: tuple[slice, slice], cell: tuple[int, int]) -> float:
    """Return the distance of a cell from the middle of a tile, in cells."""
    return float(max(abs((part.start + part.stop - 1) / 2 - at) for part, at in zip(window, cell, strict=True)))


def _count(windows: Sequence[tuple[slice, slice]], numbers: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return how many of some tiles cover each cell of the map, int64 [h, w]."""
    counts = np.zeros((max(down.stop for down, _ in windows), max(across.stop for _, across in windows)), np.int64)
    for number in numbers:
        counts[windows[number]] += 1
    return counts
