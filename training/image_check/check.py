"""Leave-one-out distances of good images, and the robust limit above which an image is suspected.

An image of a defective part among the good images does harm twice: the memory bank learns the defect as normal, and
among the held-out images it raises the threshold. Every image is therefore compared with the cells of all *other*
images. A defect that the other images do not show has a large distance, also where the image itself would be in the
memory bank.

Source: the distance is that of the memory bank (after PatchCore, Roth et al., CVPR 2022); leave-one-out and the limit
are our own, the limit is Tukey's outer fence (Exploratory Data Analysis, 1977) on the logarithms.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.bundle.manifest import InputGeometry
from service.inspection.image_files import path_text
from training.dataset import DataSet, load_prepared
from training.memory_bank import MemoryBank, normalise
from training.memory_bank.search import offsets
from training.pixels import in_chunks
from training.teachers import Teacher

SIDE = 256  # pixels; the side of the prepared images
LEVELS = slice(1, 3)  # of the teacher's pyramid: strides 8 and 16
ENERGY_FLOOR = 0.3
TOP_FRACTION = 0.01  # of the cells of an image: their mean is its distance
FENCE = 3.0  # interquartile ranges above the upper quartile
MIN_IMAGES = 8  # quartiles of fewer images are not meaningful
CHUNK_IMAGES = 64  # prepared images that are in memory at once
MAX_PRODUCTS = 2_000_000_000  # pairs of cells that are compared; bounds the time to about 20 s on one core
MAX_NAMED = 10  # images in the warning
MAX_KNOWN = 20_000  # cells that the others are compared with


@dataclass(frozen=True)
class CheckedImage:
    """A good image and its distance to all other good images.

    Attributes:
        path: The image file.
        distance: Mean of the highest 1 % of its cells' distances to the nearest cell of another image.
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
    teacher: Teacher, paths: Sequence[Path], progress: Callable[[int], None] | None = None, seed: int = 0
) -> ImageCheck:
    """Compare every image with all others.

    Args:
        teacher: A frozen network.
        paths: Good images.
        progress: Called with the number of images done so far.
        seed: Seed of the cells that are compared with.

    Raises:
        UnreadableImage: An image cannot be read; the message names it.
    """
    cells, (height, width) = _cells(teacher, paths, progress)
    distances, worst = leave_one_out(cells, torch.Generator().manual_seed(seed))
    limit = outer_fence(distances)
    images = [
        CheckedImage(path, distance, ((cell // width + 0.5) / height, (cell % width + 0.5) / width), distance > limit)
        for path, distance, cell in zip(paths, distances, worst, strict=True)
    ]
    return ImageCheck(tuple(sorted(images, key=lambda image: (-image.distance, image.path))), limit)


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

    Args:
        cells: Lifted cells, float32 `[N, K, D]`.
        generator: Draws the cells of each image that the other images are compared with.

    Returns:
        The distance of each image, and the index of its cell with the largest distance; with a single image, 0.
    """
    count, each, _ = cells.shape
    if count < 2:
        return [0.0] * count, [0] * count
    known = min(MAX_KNOWN, MAX_PRODUCTS // (count * each))
    drawn = min(each, max(1, known // count))
    points = torch.cat([image[torch.randperm(each, generator=generator)[:drawn]] for image in cells])
    bias, top = offsets(points), max(1, round(TOP_FRACTION * each))
    distances, worst = list[float](), list[int]()
    for number, image in enumerate(cells):
        products = torch.addmm(bias, image, points.T)
        products[:, number * drawn : (number + 1) * drawn] = -torch.inf  # the image's own cells
        distance = (0.5 * image.square().sum(1) - products.amax(1)).clamp_min(0)
        distances.append(float(distance.topk(top).values.mean()))
        worst.append(int(distance.argmax()))
    return distances, worst


def outer_fence(distances: Sequence[float]) -> float:
    """Return the upper outer fence of distances: above it lie outliers also if a quarter of the images are such.

    Args:
        distances: One per image, >= 0.

    Returns:
        Infinity with fewer than `MIN_IMAGES` distances.
    """
    if len(distances) < MIN_IMAGES:
        return float("inf")
    # On the logarithms, because distances are skewed to the right.
    lower, upper = np.quantile(np.log(np.maximum(distances, 1e-9)), (0.25, 0.75))
    return float(np.exp(upper + FENCE * (upper - lower)))


def _cells(
    teacher: Teacher, paths: Sequence[Path], progress: Callable[[int], None] | None
) -> tuple[Tensor, tuple[int, int]]:
    """Return the lifted cells of all images, float32 `[N, K, D]`, and the height and width of their grid."""
    geometry = InputGeometry(height=SIDE, width=SIDE)
    parts, grid = list[Tensor](), (1, 1)
    for start in range(0, len(paths), CHUNK_IMAGES):
        images = load_prepared(paths[start : start + CHUNK_IMAGES], geometry)
        for pixels in in_chunks(images):
            descriptors = MemoryBank.descriptors(teacher(pixels)[LEVELS])
            grid = (descriptors.shape[2], descriptors.shape[3])
            parts.append(descriptors.flatten(2).transpose(1, 2))
        if progress is not None:
            progress(min(start + CHUNK_IMAGES, len(paths)))
    cells = torch.cat(parts)
    scale = cells.square().sum(2).mean().clamp_min(1e-20).rsqrt()
    return normalise((cells * scale).flatten(0, 1), ENERGY_FLOOR).view(*cells.shape[:2], -1), grid
