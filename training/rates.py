"""Rates of decisions at the calibrated thresholds, with their confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.inspection.decision import Decision
from training.evaluate import ImageResult
from training.intervals import Interval, rate_interval


@dataclass(frozen=True)
class Rate:
    """A share of images.

    Attributes:
        count: Number of images that are counted.
        total: Number of images, at least 1.
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.count / self.total

    @property
    def interval(self) -> Interval:
        """The 95 % Clopper-Pearson interval of the share."""
        return rate_interval(self.count, self.total)


@dataclass(frozen=True)
class KindRates:
    """The rates of one kind of image.

    Attributes:
        kind: "good" or the kind of defect.
        defective: Whether these images show defective parts.
        fail: Share above the fail threshold: the recall of a kind of defect, the false-reject rate of good parts.
        flagged: Share above the review threshold, including those that fail.
        masks: Number of images with a ground-truth mask.
    """

    kind: str
    defective: bool
    fail: Rate
    flagged: Rate
    masks: int


def rates_by_kind(images: Sequence[ImageResult]) -> list[KindRates]:
    """Return the rates of every kind of image, "good" first."""
    kinds = sorted({(image.defective, image.defect) for image in images})
    return [
        _rates([image for image in images if image.defective == defective and image.defect == kind], kind)
        for defective, kind in kinds
    ]


def rates_of_all(images: Sequence[ImageResult]) -> list[KindRates]:
    """Return the rates of all good images and of all defective ones."""
    good = [image for image in images if not image.defective]
    defective = [image for image in images if image.defective]
    return [_rates(good, "all good parts"), _rates(defective, "all defective parts")]


def _rates(images: Sequence[ImageResult], kind: str) -> KindRates:
    def share(is_counted: Callable[[ImageResult], bool]) -> Rate:
        return Rate(sum(map(is_counted, images)), len(images))

    return KindRates(
        kind=kind,
        defective=images[0].defective,
        fail=share(lambda image: image.decision is Decision.FAIL),
        flagged=share(lambda image: image.decision is not Decision.PASS),
        masks=sum(image.mask is not None for image in images),
    )
