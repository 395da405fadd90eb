"""Training images: whole images, or tiles cut from large images as the service cuts them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import InputGeometry
from service.inspection.runtime.threads import cpu_quota
from service.inspection.tiling import cut, plan_tiles, prepare_input
from training.dataset import UInt8Images, load_prepared, read_for, read_size
from training.places import ViewPlace

# All tiles are kept in memory, and the frozen features of each need two to four times as much again. Tiles beyond this
# limit are left out at random.
MEMORY_BYTES = 1 << 28


def load_for_training(
    paths: Sequence[Path],
    geometry: InputGeometry,
    seed: int,
    progress: Callable[[int], None] | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
    sizes: list[tuple[int, int]] | None = None,
    places: list[ViewPlace] | None = None,
) -> UInt8Images:
    """Load the images to train on: whole images, or their tiles if the geometry has a tiling.

    Args:
        paths: Image files.
        geometry: Input of the graph.
        seed: Seed of the order of the tiles, and of their selection where they need too much memory.
        progress: Called with the number of images done so far.
        memory_bytes: Largest memory of the tiles; at least one tile of every image is loaded.
        sizes: Width and height of every decoded image are appended, in pixels.
        places: The place of every result is appended, in the order of the results.

    Returns:
        uint8 `[N, height, width, 3]`, RGB. Tiles are in random order, so that every part of the array shows all
        positions in the images.

    Raises:
        UnreadableImage: An image cannot be read; the message names the first one.
    """
    if geometry.tiling is None:
        if places is not None:
            places.extend(map(ViewPlace, range(len(paths))))
        return load_prepared(paths, geometry, progress, sizes)
    counts = [_tile_count(path, geometry) for path in paths]
    share = min(1.0, memory_bytes / (sum(counts) * _tile_bytes(geometry)))
    rng = np.random.default_rng((seed, len(paths)))
    chosen = [np.sort(rng.permutation(count)[: max(1, int(count * share))]) for count in counts]
    tiles = np.empty((sum(map(len, chosen)), geometry.height, geometry.width, 3), np.uint8)
    slots = np.split(rng.permutation(len(tiles)), np.cumsum([len(numbers) for numbers in chosen])[:-1])
    found = dict[int, ViewPlace]()
    # One large image per core at a time, to bound the memory.
    with ThreadPoolExecutor(cpu_quota()) as pool:
        for start in range(0, len(paths), cpu_quota()):
            part = slice(start, start + cpu_quota())
            cuts = pool.map(partial(_cut, geometry), paths[part], chosen[part])
            for number, (drawn, image_wh) in enumerate(cuts, start):
                tiles[slots[number]] = drawn
                boxes = _boxes(geometry, image_wh, chosen[number])
                found |= {int(slot): ViewPlace(number, box) for slot, box in zip(slots[number], boxes, strict=True)}
                if sizes is not None:
                    sizes.append(image_wh)
                if progress is not None:
                    progress(number + 1)
    if places is not None:
        places.extend(found[slot] for slot in range(len(tiles)))
    return tiles


def load_sample(
    paths: Sequence[Path],
    geometry: InputGeometry,
    seed: int,
    count: int,
    sizes: list[tuple[int, int]] | None = None,
) -> UInt8Images:
    """Load a random sample of images, decoding only the sample.

    Args:
        paths: Image files, at least one.
        geometry: Input of the graph.
        seed: Seed of the selection.
        count: Largest number of images.
        sizes: Width and height of every decoded image are appended, in pixels.

    Returns:
        uint8 `[min(count, N), height, width, 3]`, RGB; with a tiling, one or more tiles of up to `count` images.

    Raises:
        UnreadableImage: An image of the sample cannot be read; the message names it.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(paths))[:count])
    sample = [paths[number] for number in drawn]
    return load_for_training(sample, geometry, seed, memory_bytes=count * _tile_bytes(geometry), sizes=sizes)[:count]


def _tile_bytes(geometry: InputGeometry) -> int:
    return geometry.height * geometry.width * 3


def _tile_count(path: Path, geometry: InputGeometry) -> int:
    width, height = read_size(path)
    return len(plan_tiles((height, width), geometry))


def _boxes(
    geometry: InputGeometry, image_wh: tuple[int, int], chosen: NDArray[np.int64]
) -> list[tuple[float, float, float, float]]:
    """Return the places of tiles, relative to the sides of their image."""
    grid = plan_tiles(image_wh[::-1], geometry)
    (tile_height, tile_width), (height, width), corners = grid.tile_hw, grid.source_hw, list(grid)
    return [
        (corners[number][1] / width, corners[number][0] / height, tile_width / width, tile_height / height)
        for number in chosen
    ]


def _cut(geometry: InputGeometry, path: Path, chosen: NDArray[np.int64]) -> tuple[UInt8Images, tuple[int, int]]:
    image = read_for(path, geometry)
    grid = plan_tiles(image.image_wh[::-1], geometry)
    wanted = set(chosen.tolist())
    tiles = cut(prepare_input(image.rgb, geometry), grid)
    drawn = np.stack([tile for number, tile in enumerate(tiles) if number in wanted])
    return drawn, image.image_wh
