"""The calibration card: what held-out good images score on the exported graph, through the code that serves."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from service.bundle.card import CalibrationCard, CalibrationGroup, GroupedBy
from service.errors import BodyTooLarge
from service.inspection.errors import CorruptImage, NotAnImage, TooManyPixels
from service.inspection.inspector import Measurer
from service.inspection.measures import summarise
from service.inspection.quality import Quality
from service.inspection.records import Measurement
from training.errors import UnreadableImage

# Cells of one image's map that the heatmap's scale is measured on, at most.
MAP_CELLS = 1 << 16


def calibrate(
    measurer: Measurer,
    held_out: Sequence[Path],
    sessions: Sequence[str],
    grouped_by: GroupedBy,
    progress: Callable[[int], None] | None = None,
) -> CalibrationCard:
    """Measure every held-out good image from its original file.

    Args:
        measurer: The exported graph, opened as the service opens it.
        held_out: Good images that training never saw.
        sessions: The session of each, as `DataSet.sessions`.
        grouped_by: What told the sessions apart.
        progress: Called with the number of images done so far.

    Raises:
        UnreadableImage: Names the first file that is not a whole image.
    """
    scores: list[float] = []
    maps = []
    qualities: list[Quality] = []
    rng = np.random.default_rng(0)
    for done, path in enumerate(held_out, 1):
        with named_failures(path):
            image = measurer.read(path.read_bytes())
        measurement = measurer.score(image, measurer.infer(image))
        qualities.append(image.quality)
        scores.append(measurement.score)
        cells = measurement.anomaly_map.ravel()
        # Of the map of an image in tiles a part is enough for two quantiles, and all of them would fill the memory.
        maps.append(cells if cells.size <= MAP_CELLS else rng.choice(cells, MAP_CELLS, replace=False))
        if progress is not None:
            progress(done)
    counts = sorted(Counter(sessions).items())
    places = {name: place for place, (name, _) in enumerate(counts)}
    ranked = sorted(zip(scores, (places[name] for name in sessions), strict=True))
    median, q99 = np.quantile(np.concatenate(maps), [0.5, 0.99])
    return CalibrationCard(
        provider=measurer.provider,
        scores=[score for score, _ in ranked],
        groups=[CalibrationGroup(name=name, count=count) for name, count in counts],
        grouped_by=grouped_by,
        group_of_score=[place for _, place in ranked],
        map_median=float(median),
        map_q99=float(q99),
        quality=summarise(qualities),
    )


def measure_file(measurer: Measurer, path: Path) -> Measurement:
    """Measure one image file.

    Raises:
        UnreadableImage: The file is missing, damaged or no image.
    """
    with named_failures(path):
        return measurer.measure(path.read_bytes())


@contextmanager
def named_failures(path: Path) -> Iterator[None]:
    """Turns what the decoder says about bytes into what a person needs: which file it was."""
    try:
        yield
    except (BodyTooLarge, TooManyPixels, NotAnImage, CorruptImage) as error:
        raise UnreadableImage(path, error.detail) from error
    except OSError as error:
        raise UnreadableImage(path, f"{error.strerror}.") from error
