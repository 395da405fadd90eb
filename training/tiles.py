"""Tiles to learn from: drawn from images that are larger than the network, through the service's own cutting."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import InputGeometry
from service.inspection.decoding.decoder import read_header
from service.inspection.runtime.threads import cpu_quota
from service.inspection.tiling import cut, plan_tiles, prepare_input
from training.calibrate import named_failures
from training.dataset import UInt8Images, load_prepared, read_rgb

# All tiles are kept in memory, like all images without a tiling, and the frozen teacher's features of each take two
# to four times as much again; of more than fit, some are drawn.
MEMORY_BYTES = 1 << 28


def load_for_training(
    paths: Sequence[Path],
    geometry: InputGeometry,
    seed: int,
    progress: Callable[[int], None] | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> UInt8Images:
    """What the network learns from: whole images, or with a tiling tiles of them, as serving cuts them.

    Args:
        paths: Image files.
        geometry: The graph's input.
        seed: Decides which tiles are drawn where there are too many.
        progress: Called with the number of images done so far.
        memory_bytes: Most memory for tiles; at least one tile of every image is drawn.

    Returns:
        uint8 [N, height, width, 3], RGB; tiles in an order that the seed decides, so that any part of them shows all
        places of the images.

    Raises:
        UnreadableImage: Names the first file that is not a whole image.
    """
    if geometry.tiling is None:
        return load_prepared(paths, geometry, progress)
    counts = [_tiles_of(path, geometry) for path in paths]
    tile_bytes = geometry.height * geometry.width * 3
    share = min(1.0, memory_bytes / (sum(counts) * tile_bytes))
    rng = np.random.default_rng((seed, len(paths)))
    chosen = [np.sort(rng.permutation(count)[: max(1, int(count * share))]) for count in counts]
    tiles = np.empty((sum(map(len, chosen)), geometry.height, geometry.width, 3), np.uint8)
    places = np.split(rng.permutation(len(tiles)), np.cumsum([len(numbers) for numbers in chosen])[:-1])
    # One large image at a time and core: the images themselves must not fill the memory.
    with ThreadPoolExecutor(cpu_quota()) as pool:
        for start in range(0, len(paths), cpu_quota()):
            piece = slice(start, start + cpu_quota())
            for number, drawn in enumerate(pool.map(partial(_draw, geometry), paths[piece], chosen[piece]), start):
                tiles[places[number]] = drawn
                if progress is not None:
                    progress(number + 1)
    return tiles


def _tiles_of(path: Path, geometry: InputGeometry) -> int:
    with named_failures(path):
        header = read_header(path.read_bytes())
    return len(plan_tiles((header.height, header.width), geometry))


def _draw(geometry: InputGeometry, path: Path, chosen: NDArray[np.int64]) -> UInt8Images:
    rgb = read_rgb(path)
    grid = plan_tiles((rgb.shape[0], rgb.shape[1]), geometry)
    wanted = set(chosen.tolist())
    tiles = cut(prepare_input(rgb, geometry), grid)
    return np.stack([tile for number, tile in enumerate(tiles) if number in wanted])
