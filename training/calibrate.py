"""The calibration card: scores of held-out good images, computed with the exported graph by the service's code."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from service.bundle.card import CalibrationCard, CalibrationGroup, GroupedBy, ImageSizes
from service.inspection.inspector import Measurer
from service.inspection.measures import list_values, summarise
from service.inspection.quality import Quality
from training.dataset import image_errors

# Largest number of cells per image that the quantiles of the map are computed from.
MAP_CELLS = 1 << 16


def calibrate(
    measurer: Measurer,
    held_out: Sequence[Path],
    sessions: Sequence[str],
    grouped_by: GroupedBy,
    progress: Callable[[int], None] | None = None,
    *,
    training_sizes: Sequence[tuple[int, int]] = (),
) -> CalibrationCard:
    """Measure every held-out good image from its original file.

    Args:
        measurer: The exported graph, opened as the service opens it.
        held_out: Good images that training did not use.
        sessions: The session of each image, see `DataSet.sessions`.
        grouped_by: The property that separates the sessions.
        progress: Called with the number of images done so far.
        training_sizes: Width and height of the training images, in pixels.

    Raises:
        UnreadableImage: An image cannot be read; the message names the first one.
    """
    scores: list[float] = []
    maps = []
    qualities: list[Quality] = []
    sizes = list(training_sizes)
    rng = np.random.default_rng(0)
    for done, path in enumerate(held_out, 1):
        with image_errors(path):
            image = measurer.read(path.read_bytes())
        measurement = measurer.score(image, measurer.infer(image))
        qualities.append(image.quality)
        sizes.append(image.image_wh)
        scores.append(measurement.score)
        cells = measurement.anomaly_map.ravel()
        # The map of a tiled image is sampled: all cells would need too much memory, and two quantiles need fewer.
        maps.append(cells if cells.size <= MAP_CELLS else rng.choice(cells, MAP_CELLS, replace=False))
        if progress is not None:
            progress(done)
    counts = sorted(Counter(sessions).items())
    numbers = {name: number for number, (name, _) in enumerate(counts)}
    order = sorted(range(len(scores)), key=lambda index: (scores[index], numbers[sessions[index]]))
    median, q99 = np.quantile(np.concatenate(maps), [0.5, 0.99])
    return CalibrationCard(
        provider=measurer.provider,
        scores=[scores[index] for index in order],
        groups=[CalibrationGroup(name=name, count=count) for name, count in counts],
        grouped_by=grouped_by,
        group_of_score=[numbers[sessions[index]] for index in order],
        map_median=float(median),
        map_q99=float(q99),
        quality=summarise(qualities),
        quality_of_score=list_values([qualities[index] for index in order]),
        image_size=summarise_sizes(sizes),
    )


def summarise_sizes(sizes: Sequence[tuple[int, int]]) -> ImageSizes:
    """Return the ranges of widths, heights and aspect ratios.

    Args:
        sizes: Width and height of every image, in pixels, at least one.
    """
    widths, heights = zip(*sizes, strict=True)
    aspects = [width / height for width, height in sizes]
    return ImageSizes(
        min_width=min(widths),
        max_width=max(widths),
        min_height=min(heights),
        max_height=max(heights),
        min_aspect=min(aspects),
        max_aspect=max(aspects),
    )
