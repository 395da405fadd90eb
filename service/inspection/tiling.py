"""Images far larger than the network: cut into overlapping tiles, and the tiles' maps put together again.

Stretching an image of 4096 x 3000 pixels to 256 x 256 makes one and a half pixels of a defect of 24: it is gone before
the network looks. So a bundle may say that its graph looks at tiles instead. Where they lie and how their maps are
blended is decided here and nowhere else, and training, calibration and serving all come through here. The bundle's
manifest alone says how: scores of one tiling mean nothing for another, so no recipe can change it.
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

# Images are padded to a multiple of this, so that tiles begin between two cells of any map whose stride divides it.
ALIGNMENT_PX = 32


@dataclass(frozen=True)
class TileGrid:
    """Where the tiles of an image lie. All lengths are pixels of the image after it was scaled.

    Attributes:
        image_hw: Height and width of the image.
        tile_hw: Height and width of a tile.
        tops: Upper edges of the rows of tiles.
        lefts: Left edges of the columns of tiles.
        overlap: What neighbours share at least; the last row and column may share more.
    """

    source_hw: tuple[int, int]
    tile_hw: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    overlap: int

    @property
    def padded_hw(self) -> tuple[int, int]:
        """Height and width of what the tiles cover: the image and less than a cell's share of padding, or a tile."""
        return self.tops[-1] + self.tile_hw[0], self.lefts[-1] + self.tile_hw[1]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Upper left corners (top, left), row by row."""
        return ((top, left) for top in self.tops for left in self.lefts)


def plan_tiles(image_hw: tuple[int, int], geometry: InputGeometry) -> TileGrid:
    """Lay tiles over an image.

    Args:
        image_hw: Height and width of the image as it was sent.
        geometry: The graph's input, with a tiling.
    """
    tiling = geometry.tiling
    assert tiling is not None
    source_hw = (max(1, round(image_hw[0] * tiling.scale)), max(1, round(image_hw[1] * tiling.scale)))
    tile_hw = (geometry.height, geometry.width)
    tops, lefts = (_starts(size, tile, tile - tiling.overlap) for size, tile in zip(source_hw, tile_hw, strict=True))
    return TileGrid(source_hw, tile_hw, tops, lefts, tiling.overlap)


def prepare_input(rgb: UInt8Image, geometry: InputGeometry) -> UInt8Image:
    """Bring an image to the form that its graph, or its tiles, are taken from.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        geometry: The graph's input.

    Returns:
        Without a tiling uint8 [geometry.height, geometry.width, 3]. With one the scaled image, padded by its own
        mirror image to the right and below until it is a multiple of `ALIGNMENT_PX` and at least one tile.
    """
    if geometry.tiling is None:
        return prepare(rgb, geometry)
    grid = plan_tiles((rgb.shape[0], rgb.shape[1]), geometry)
    scaled = resize(rgb, grid.source_hw)
    below, right = (padded - size for padded, size in zip(grid.padded_hw, grid.source_hw, strict=True))
    if below == right == 0:
        return scaled
    return np.asarray(cv2.copyMakeBorder(scaled, 0, below, 0, right, cv2.BORDER_REFLECT_101), np.uint8)


def cut(prepared: UInt8Image, grid: TileGrid) -> Iterator[UInt8Image]:
    """The tiles of a laid-out image in the grid's order, uint8 [tile height, tile width, 3]: views, not copies."""
    height, width = grid.tile_hw
    return (prepared[top : top + height, left : left + width] for top, left in grid)


def infer_tiles(
    prepared: UInt8Image, grid: TileGrid, submit: Callable[[UInt8Image], Future[PatchResult]], at_once: int
) -> PatchResult:
    """Run a graph over all tiles of an image and put their maps together.

    Args:
        prepared: As `prepare_input` returns it.
        grid: Where its tiles lie.
        submit: Queues one tile for the graph.
        at_once: Most tiles that wait or run at a time, so that one large image leaves room for others.

    Returns:
        The whole map, times the tiles' gains, with the tiles' places on it. Its times are the first tile's waiting time
        and the sum of what the tiles took.

    Raises:
        Exception: Whatever one tile failed with; those that still wait are taken back.
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
        # Tiles of one batch share its time.
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
    """Puts maps of tiles together: where they overlap they fade into each other along a Hann window, so that no seam
    shows and no tile's border, where the network knows least, counts in full.

    Args:
        grid: Where the tiles lie.
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
        """As `tile_windows`."""
        return tile_windows(self._grid, self._map_hw)

    def add(self, corner: tuple[int, int], tile_map: Float32Map) -> None:
        """Lay one tile's map over the others.

        Args:
            corner: The tile's upper left corner, in pixels.
            tile_map: float32 [h, w], times its gain.
        """
        place = _place(corner, self._grid, self._map_hw)
        self._sum[place] += tile_map * self._weight
        self._weights[place] += self._weight

    def finish(self) -> Float32Map:
        """The map of the image, float32: every cell that the image reaches into, none of the padding's own.

        Each cell is a weighted mean of what the tiles say about it, so none exceeds the highest of them.
        """
        rows, columns = _image_cells(self._grid, self._map_hw)
        return self._sum[:rows, :columns] / self._weights[:rows, :columns]


def tile_windows(grid: TileGrid, map_hw: tuple[int, int]) -> tuple[tuple[slice, slice], ...]:
    """Every tile's rows and columns on the map that `Blend.finish` returns.

    Args:
        grid: Where the tiles lie.
        map_hw: Height and width of one tile's map, in cells.
    """
    rows, columns = _image_cells(grid, map_hw)
    places = (_place(corner, grid, map_hw) for corner in grid)
    return tuple(
        (slice(down.start, min(down.stop, rows)), slice(across.start, min(across.stop, columns)))
        for down, across in places
    )


def _image_cells(grid: TileGrid, map_hw: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of cells that the image reaches into."""
    stride = grid.tile_hw[0] // map_hw[0]
    return math.ceil(grid.source_hw[0] / stride), math.ceil(grid.source_hw[1] / stride)


def _place(corner: tuple[int, int], grid: TileGrid, map_hw: tuple[int, int]) -> tuple[slice, slice]:
    """A tile's rows and columns on the padded image's map."""
    stride = grid.tile_hw[0] // map_hw[0]
    top, left = corner[0] // stride, corner[1] // stride
    return slice(top, top + map_hw[0]), slice(left, left + map_hw[1])


def _starts(size: int, tile: int, step: int) -> tuple[int, ...]:
    """Where tiles begin along one side: every step, the last one moved back so that it ends where the image does."""
    last = max(0, math.ceil(size / ALIGNMENT_PX) * ALIGNMENT_PX - tile)
    return (*range(0, last, step), last)


def _window(cells: int, rise: int) -> Float32Map:
    """Weights along one side of a tile, float32 [cells], all above 0: one, and half a Hann window over the overlap at
    either end, so that two neighbours' weights add up to one."""
    weights = np.ones(cells, np.float32)
    ramp = np.sin(np.pi / 2 * (np.arange(rise) + 0.5) / max(1, rise)) ** 2
    weights[:rise] = ramp
    weights[cells - rise :] *= ramp[::-1]
    return weights
