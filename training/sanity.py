"""A sanity check of a trained product: does its score separate good images from synthetic anomalies? Our own.

A threshold certifies how many good parts fail, not that any defect is found: the scores of a useless network get a
threshold as well. So synthetic anomalies are added to held-out good images, which the network has not seen, and the
exported graph scores both with the service's code. The anomalies are of the kinds that training uses, so the figures
are an upper limit of what real defects would give. Low figures mean that the network is useless; high figures do not
mean that it is good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.card import SanityFigures
from service.bundle.manifest import InputGeometry
from service.inspection.inspector import Measurer
from service.inspection.records import Measurement
from training import metrics
from training.dataset import UInt8Images, image_errors, read_for
from training.synthetic_anomalies import synthetic_anomaly

MAX_SYNTHETIC = 64  # images with a synthetic anomaly, 2 to 6 per good image
MIN_IMAGES, MAX_IMAGES = 5, 32  # good images
BUDGET_PIXELS = 400_000_000  # of all scored images together; fewer images are used if they are large
# A network that guesses has AUROCs of 0.5. For the fewest images of a product (10 good ones, 60 anomalies) the image
# AUROC of guesses has a standard error of 0.1 (Hanley & McNeil 1982), so the floor is 1.5 of them above; the pixel
# AUROC is taken over thousands of cells and varies less. Both must be reached. The floors are low on purpose: large
# anomalies of a texture differ from it at their borders only, and a good network may not reach more.
MIN_IMAGE_AUROC = 0.65
MIN_PIXEL_AUROC = 0.6


def measure_sanity(
    measurer: Measurer, held_out: Sequence[Path], seed: int, progress: Callable[[int], None] | None = None
) -> SanityFigures:
    """Score held-out good images and copies of them with synthetic anomalies.

    Args:
        measurer: The exported graph, opened as the service opens it.
        held_out: Good images that training did not use, at least one.
        seed: Seed of the anomalies.
        progress: Called with the number of good images done so far.

    Raises:
        UnreadableImage: An image cannot be read; the message names the first one.
    """
    scores: list[float] = []
    defective: list[bool] = []
    pixels = metrics.PixelScores()

    def add(measurement: Measurement, mask: NDArray[np.bool_]) -> None:
        anomaly_map = measurement.anomaly_map
        # On the grid of the map, where a defect of a few pixels still covers a cell: full resolution would need
        # gigabytes for large images.
        cells = cv2.resize(mask.astype(np.float32), anomaly_map.shape[::-1], interpolation=cv2.INTER_AREA)
        pixels.add(anomaly_map, np.asarray(cells > 0))
        scores.append(measurement.score)
        defective.append(bool(mask.any()))

    paths = _sample(held_out, measurer.geometry)
    copies = _copies(len(paths))
    for done, path in enumerate(paths, 1):
        # The pixels that the graph's input is made from: good images and copies must not differ in their decoding.
        rgb = read_for(path, measurer.geometry).rgb
        with image_errors(path):
            add(measurer.measure(path.read_bytes()), np.zeros(rgb.shape[:2], bool))
        for changed, mask in _with_anomalies(rgb, copies, (seed, done)):
            add(measurer.measure(_encode(changed)), mask)
        if progress is not None:
            progress(done)
    return SanityFigures(
        images=len(paths),
        synthetic=sum(defective),
        image_auroc=metrics.auroc(np.array(scores), np.array(defective)),
        pixel_auroc=pixels.figures().auroc,
    )


def sample_size(measurer: Measurer, held_out: Sequence[Path]) -> int:
    """Return how many good images `measure_sanity` uses, for progress displays."""
    return len(_sample(held_out, measurer.geometry))


def weaknesses(figures: SanityFigures) -> list[str]:
    """Return the figures that are below the floor, in words; empty if there is none."""
    return [
        f"the {name} AUROC on synthetic anomalies is {value:.2f}, at least {floor:g} is expected"
        for name, value, floor in (
            ("image", figures.image_auroc, MIN_IMAGE_AUROC),
            ("pixel", figures.pixel_auroc, MIN_PIXEL_AUROC),
        )
        if value < floor
    ]


def _sample(held_out: Sequence[Path], geometry: InputGeometry) -> list[Path]:
    """Choose evenly spaced images: file names often follow the time of capture."""
    height, width = read_for(held_out[0], geometry).rgb.shape[:2]
    affordable = BUDGET_PIXELS // (height * width * (1 + _copies(MAX_IMAGES)))
    count = min(max(affordable, MIN_IMAGES), MAX_IMAGES, len(held_out))
    return [held_out[int(number)] for number in np.linspace(0, len(held_out), count, endpoint=False)]


def _copies(count: int) -> int:
    """Return the number of synthetic anomalies per good image: more of them if there are few images."""
    return min(6, MAX_SYNTHETIC // count)


def _with_anomalies(
    rgb: UInt8Images, copies: int, seed: tuple[int, int]
) -> Iterator[tuple[UInt8Images, NDArray[np.bool_]]]:
    """Yield copies of an image with a synthetic anomaly each. A recipe that changes nothing by chance is repeated."""
    for copy in range(copies):
        for attempt in range(10):
            rng = np.random.default_rng((*seed, copy, attempt))
            changed, mask = synthetic_anomaly(rgb, rng)
            if mask.any():
                yield np.rint(changed * 255).astype(np.uint8), mask
                break


def _encode(rgb: UInt8Images) -> bytes:
    """Encode an image without loss. BMP is the fastest format that the service reads."""
    return cv2.imencode(".bmp", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
