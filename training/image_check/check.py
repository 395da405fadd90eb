"""Leave-one-out distances of good images, and the robust limit above which an image is suspected.

An image of a defective part among the good images does harm twice: the memory bank learns the defect as normal, and
among the held-out images it raises the threshold. Every image is therefore compared with the cells of all *other*
images. A defect that the other images do not show has a large distance, also where the image itself would be in the
memory bank.

Source: the distance is that of the memory bank (after PatchCore, Roth et al., CVPR 2022); leave-one-out and the limit
are our own. Their constants were chosen on five products with planted defects (docs/benchmarks.md).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.inspection.image_files import path_text
from training.coarse_features import CoarseFeatures
from training.dataset import DataSet
from training.memory_bank import normalise
from training.memory_bank.search import offsets

ENERGY_FLOOR = 0.3
TOP_FRACTION = 0.03  # of the cells of an image: their mean is its distance
DEVIATIONS = 2.5  # robust standard deviations above the median
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
MIN_DEVIATION = 0.01  # of the logarithms: distances of images that are all but equal differ by rounding
MIN_IMAGES = 8  # the deviation of fewer images is not meaningful
MAX_PRODUCTS = 1_500_000_000  # pairs of cells in each comparison; bounds the time to about 20 s on one core
MAX_NAMED = 10  # images in the warning
MAX_KNOWN = 10_000  # cells that all cells are compared with
REFINED = 32  # cells of each image that are compared with more
MAX_TOGETHER = 2000  # images that are compared with each other; bounds the memory to about 1 GB


@dataclass(frozen=True)
class CheckedImage:
    """A good image and its distance to all other good images.

    Attributes:
        path: The image file.
        distance: Mean of the highest 3 % of its cells' distances to the nearest cell of another image.
        place: Row and column of the cell with the largest distance, in sides of the image, each in (0, 1).
        suspected: Whether the distance is above the limit.
    """

    path: Path
    distance: float
    place: tuple[float, float]
    suspected: bool


@dataclass(frozen=True)
class ImageCheck:
    """The result of `check_images`.

    Attributes:
        images: All images, largest distance first.
        limit: Distances above it are suspicious; infinite with fewer than `MIN_IMAGES` images.
    """

    images: tuple[CheckedImage, ...]
    limit: float

    @property
    def suspected(self) -> list[Path]:
        """Return the suspected images, largest distance first."""
        return [image.path for image in self.images if image.suspected]


@torch.no_grad()
def check_images(
    features: CoarseFeatures, paths: Sequence[Path], progress: Callable[[int], None] | None = None, seed: int = 0
) -> ImageCheck:
    """Compare every image with all others.

    More than `MAX_TOGETHER` images are divided into parts that are compared in themselves. Each part is spread evenly
    over the names, so that it shows every capture group.

    Args:
        features: Computes the features of images.
        paths: Good images, at least one.
        progress: Called with the number of images done so far.
        seed: Seed of the cells that are compared with.

    Raises:
        UnreadableImage: An image cannot be read; the message names it.
    """
    parts = -(-len(paths) // MAX_TOGETHER)
    measured: list[tuple[Path, float, tuple[float, float]]] = []
    for first in range(parts):
        before = len(measured)
        advance = None if progress is None else lambda done, before=before: progress(before + done)
        measured += _measure(features, paths[first::parts], advance, seed)
    limit = limit_of([distance for _, distance, _ in measured])
    images = [CheckedImage(path, distance, place, distance > limit) for path, distance, place in measured]
    return ImageCheck(tuple(sorted(images, key=lambda image: (-image.distance, image.path))), limit)


def _measure(
    features: CoarseFeatures, paths: Sequence[Path], progress: Callable[[int], None] | None, seed: int
) -> Iterator[tuple[Path, float, tuple[float, float]]]:
    """Give each image, its distance to the others, and the place of its most distant cell."""
    descriptors = features.of(paths, progress)
    height, width = descriptors.shape[2:]
    cells = descriptors.flatten(2).transpose(1, 2)
    scale = cells.square().sum(2).mean().clamp_min(1e-20).rsqrt()
    cells = normalise((cells * scale).flatten(0, 1), ENERGY_FLOOR).view(*cells.shape[:2], -1)
    distances, worst = leave_one_out(cells, torch.Generator().manual_seed(seed))
    for path, distance, cell in zip(paths, distances, worst, strict=True):
        yield path, distance, ((cell // width + 0.5) / height, (cell % width + 0.5) / width)


def describe_suspected(check: ImageCheck, data: DataSet) -> str | None:
    """Return one line with the suspected images and what to do, or None without any.

    Args:
        check: The result of `check_images`.
        data: The images of the product.
    """
    if not (suspected := check.suspected):
        return None
    names = ", ".join(relative_name(path, data.folder) for path in suspected[:MAX_NAMED])
    more = f" and {len(suspected) - MAX_NAMED} more" if len(suspected) > MAX_NAMED else ""
    command = f"plumbline-train check-images --data {shlex.quote(path_text(data.root))}"
    return (
        f"Warning: good images that differ from all others and may show a defect: {names}{more}. Look at them "
        f"({command}) and leave defective ones out with --exclude."
    )


def relative_name(path: Path, root: Path) -> str:
    """Return the name of an image relative to a folder, as `--exclude` accepts it."""
    return path_text(path.relative_to(root) if path.is_relative_to(root) else path)


def leave_one_out(cells: Tensor, generator: torch.Generator) -> tuple[list[float], list[int]]:
    """Compute the distance of each image to the others.

    All cells of an image are compared with a sample of the others' cells, and then the most distant ones with as many
    cells as the time allows, usually all: a sample misses the counterpart of a rare normal cell.

    Args:
        cells: Lifted cells, float32 `[N, K, D]`.
        generator: Draws the cells of each image that the other images are compared with.

    Returns:
        The distance of each image, and the index of its cell with the largest distance; with a single image, 0.
    """
    count, each, _ = cells.shape
    if count < 2:
        return [0.0] * count, [0] * count
    known = _Known(cells, min(MAX_KNOWN, MAX_PRODUCTS // (count * each)), generator)
    refined = min(each, REFINED)
    closely = _Known(cells, MAX_PRODUCTS // (count * refined), generator)
    top = max(1, round(TOP_FRACTION * each))
    distances, worst = list[float](), list[int]()
    for number, image in enumerate(cells):
        hardest = known.distances(image, number).topk(refined).indices
        distance = closely.distances(image[hardest], number)
        distances.append(float(distance.topk(min(top, refined)).values.mean()))
        worst.append(int(hardest[distance.argmax()]))
    return distances, worst


class _Known:
    """Cells of all images, the same number of each.

    Args:
        cells: float32 `[N, K, D]`.
        limit: Largest number of cells, but at least one of each image.
        generator: Draws them.
    """

    def __init__(self, cells: Tensor, limit: int, generator: torch.Generator) -> None:
        count, each, _ = cells.shape
        self._drawn = min(each, max(1, limit // count))
        if self._drawn == each:
            self._points = cells.flatten(0, 1)
        else:
            self._points = torch.cat(
                [image[torch.randperm(each, generator=generator)[: self._drawn]] for image in cells]
            )
        self._bias = offsets(self._points)

    def distances(self, queries: Tensor, number: int) -> Tensor:
        """Return half the squared distance of cells of image `number` to the nearest cell of another image."""
        products = torch.addmm(self._bias, queries, self._points.T)
        products[:, number * self._drawn : (number + 1) * self._drawn] = -torch.inf
        return (0.5 * queries.square().sum(1) - products.amax(1)).clamp_min(0)


def limit_of(distances: Sequence[float]) -> float:
    """Return the distance above which an image is suspected.

    It is `DEVIATIONS` robust standard deviations above the median, both of the logarithms, because distances are skewed
    to the right. Neither is moved much while most images are good.

    Args:
        distances: One per image, >= 0.

    Returns:
        Infinity with fewer than `MIN_IMAGES` distances.
    """
    if len(distances) < MIN_IMAGES:
        return float("inf")
    logarithms = np.log(np.maximum(distances, 1e-9))
    median = np.median(logarithms)
    deviation = max(MAD_TO_DEVIATION * float(np.median(np.abs(logarithms - median))), MIN_DEVIATION)
    return float(np.exp(median + DEVIATIONS * deviation))
