"""Tiling: cut an image that is much larger than the network's input into overlapping tiles, and combine their maps.

If an image of 4096 x 3000 pixels is stretched to 256 x 256, a defect of 24 pixels becomes one and a half pixels and is
lost. So the manifest of a bundle can state that its graph is applied to tiles. This module alone decides where the
tiles lie and how their maps are blended; training, calibration and serving all use it. Scores of one tiling do not
apply to another one, so a recipe cannot change the tiling.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import cv2
import numpy as np

from service.bundle.arrays import Float32Map, UInt8Image
from service.bundle.manifest import InputGeometry
from service.inspection.preparation import prepare, resize
from service.inspection.runtime.batching import PatchResult

# Images are padded to a multiple of this value, so that tiles start at the edge of a map cell for every map stride that
# divides it.
ALIGNMENT_PX = 32


@dataclass(frozen=True)
class TileGrid:
    """Positions of the tiles of an image. All lengths are in pixels of the scaled image.

    Attributes:
        source_hw: Height and width of the scaled image.
        tile_hw: Height and width of a tile.
        tops: Upper edges of the rows of tiles.
        lefts: Left edges of the columns of tiles.
        overlap: Smallest overlap of neighbouring tiles; the last row and column may overlap more.
    """

    source_hw: tuple[int, int]
    tile_hw: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    overlap: int

    @property
    def padded_hw(self) -> tuple[int, int]:
        """Return height and width of the area that the tiles cover: the image and its padding."""
        return self.tops[-1] + self.tile_hw[0], self.lefts[-1] + self.tile_hw[1]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Return the upper left corners (top, left), row by row."""
        return ((top, left) for top in self.tops for left in self.lefts)


def plan_tiles(image_hw: tuple[int, int], geometry: InputGeometry) -> TileGrid:
    """Return the positions of the tiles of an image.

    Args:
        image_hw: Height and width of the image as it was sent.
        geometry: The graph's input, with a tiling.

    Raises:
        ValueError: The graph's input has no tiling.
    """
    tiling = geometry.tiling
    if tiling is None:
        raise ValueError("The graph's input has no tiling, so the image is not cut into tiles.")
    source_hw = (max(1, round(image_hw[0] * tiling.scale)), max(1, round(image_hw[1] * tiling.scale)))
    tile_hw = (geometry.height, geometry.width)
    tops, lefts = (_starts(size, tile, tile - tiling.overlap) for size, tile in zip(source_hw, tile_hw, strict=True))
    return TileGrid(source_hw, tile_hw, tops, lefts, tiling.overlap)


def prepare_input(rgb: UInt8Image, geometry: InputGeometry) -> UInt8Image:
    """Scale an image to the input of the graph, or to the image from which its tiles are cut.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        geometry: The graph's input.

    Returns:
        Without a tiling uint8 [geometry.height, geometry.width, 3]. With a tiling the scaled image, padded on the right
        and at the bottom with its mirror image to a multiple of `ALIGNMENT_PX` and at least one tile.
    """
    if geometry.tiling is None:
        return prepare(rgb, geometry)
    grid = plan_tiles((rgb.shape[0], rgb.shape[1]), geometry)
    scaled = resize(rgb, grid.source_hw)
    bottom, right = (padded - size for padded, size in zip(grid.padded_hw, grid.source_hw, strict=True))
    if bottom == right == 0:
        return scaled
    return np.asarray(cv2.copyMakeBorder(scaled, 0, bottom, 0, right, cv2.BORDER_REFLECT_101), np.uint8)


def cut(prepared: UInt8Image, grid: TileGrid) -> Iterator[UInt8Image]:
    """Return the tiles of a prepared image in the grid's order, uint8 [tile height, tile width, 3], without copying."""
    height, width = grid.tile_hw
    return (prepared[top : top + height, left : left + width] for top, left in grid)


def infer_tiles(
    prepared: UInt8Image, grid: TileGrid, submit: Callable[[UInt8Image], Future[PatchResult]], at_once: int
) -> PatchResult:
    """Run a graph on all tiles of an image and blend their maps.

    Args:
        prepared: The image as `prepare_input` returns it.
        grid: Positions of its tiles.
        submit: Queues one tile for inference.
        at_once: Largest number of tiles that wait or run together, so that a large image does not fill the queue.

    Returns:
        The map of the whole image, times the tiles' gains, with the position of each tile on it. `queue_s` is that of
        the first tile, `infer_s` the sum over the tiles.

    Raises:
        Exception: The exception of the first tile that failed; tiles that still wait are cancelled.
    """
    waiting: deque[tuple[tuple[int, int], Future[PatchResult]]] = deque()
    blended: Blend | None = None
    queue_s, infer_s, largest = 0.0, 0.0, 0

    def take() -> None:
        nonlocal blended, queue_s, infer_s, largest
        corner, future = waiting.popleft()
        result = future.result()
        if blended is None:
            blended, queue_s = Blend(grid, result.anomaly_map.shape), result.queue_s
        blended.add(corner, result.anomaly_map if result.gain is None else result.anomaly_map * result.gain)
        # The tiles of one batch share its duration.
        infer_s += result.infer_s / result.batch_size
        largest = max(largest, result.batch_size)

    try:
        for corner, tile in zip(grid, cut(prepared, grid), strict=True):
            if len(waiting) == at_once:
                take()
            waiting.append((corner, submit(tile)))
        while waiting:
            take()
    finally:
        for _, future in waiting:
            future.cancel()
    assert blended is not None  # a grid has at least one tile
    return PatchResult(blended.finish(), None, queue_s, infer_s, largest, blended.windows)


class Blend:
    """Blends the maps of tiles.

    Overlapping tiles are weighted with a Hann window. So there are no seams, and the border of a tile, where the
    network has the least context, has the lowest weight.

    Args:
        grid: Positions of the tiles.
        map_hw: Height and width of one tile's map, in cells.
    """

    def __init__(self, grid: TileGrid, map_hw: tuple[int, int]) -> None:
        self._grid = grid
        self._map_hw = map_hw
        stride = grid.tile_hw[0] // map_hw[0]
        rise = grid.overlap // stride
        self._weight = np.outer(_window(map_hw[0], rise), _window(map_hw[1], rise)).astype(np.float32)
        cells_hw = tuple(size // stride for size in grid.padded_hw)
        self._sum, self._weights = np.zeros(cells_hw, np.float32), np.zeros(cells_hw, np.float32)

    @property
    def windows(self) -> tuple[tuple[slice, slice], ...]:
        """Return the position of every tile on the map; see `tile_windows`."""
        return tile_windows(self._grid, self._map_hw)

    def add(self, corner: tuple[int, int], tile_map: Float32Map) -> None:
        """Add the map of one tile.

        Args:
            corner: The tile's upper left corner, in pixels.
            tile_map: float32 [h, w], times its gain.
        """
        place = _place(corner, self._grid, self._map_hw)
        self._sum[place] += tile_map * self._weight
        self._weights[place] += self._weight

    def finish(self) -> Float32Map:
        """Return the map of the image, float32, without cells that lie completely in the padding.

        Each cell is a weighted mean of the values of the tiles that cover it, so none exceeds the highest of them.
        """
        rows, columns = _image_cells(self._grid, self._map_hw)
        return self._sum[:rows, :columns] / self._weights[:rows, :columns]


def tile_windows(grid: TileGrid, map_hw: tuple[int, int]) -> tuple[tuple[slice, slice], ...]:
    """Return every tile's rows and columns on the map that `Blend.finish` returns.

    Args:
        grid: Positions of the tiles.
        map_hw: Height and width of one tile's map, in cells.
    """
    rows, columns = _image_cells(grid, map_hw)
    places = (_place(corner, grid, map_hw) for corner in grid)
    return tuple(
        (slice(down.start, min(down.stop, rows)), slice(across.start, min(across.stop, columns)))
        for down, across in places
    )


def _image_cells(grid: TileGrid, map_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the number of rows and columns of cells that contain image pixels."""
    stride = grid.tile_hw[0] // map_hw[0]
    return math.ceil(grid.source_hw[0] / stride), math.ceil(grid.source_hw[1] / stride)


def _place(corner: tuple[int, int], grid: TileGrid, map_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Return a tile's rows and columns on the map of the padded image."""
    stride = grid.tile_hw[0] // map_hw[0]
    top, left = corner[0] // stride, corner[1] // stride
    return slice(top, top + map_hw[0]), slice(left, left + map_hw[1])


def _starts(size: int, tile: int, step: int) -> tuple[int, ...]:
    """Return the first pixel of every tile along one side.

    Tiles follow each other by `step`; the last one is moved back so that it ends at the end of the image.
    """
    last = max(0, math.ceil(size / ALIGNMENT_PX) * ALIGNMENT_PX - tile)
    return (*range(0, last, step), last)


def _window(cells: int, rise: int) -> Float32Map:
    """Return the weights along one side of a tile, float32 [cells], all above 0.

    They are 1, with half a Hann window over the overlap at either end, so that the weights of two neighbours add up to
    1.
    """
    weights = np.ones(cells, np.float32)
    ramp = np.sin(np.pi / 2 * (np.arange(rise) + 0.5) / max(1, rise)) ** 2
    weights[:rise] = ramp
    weights[cells - rise :] *= ramp[::-1]
    return weights
