"""The calibration card: the scores of the held-out good images."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from service.bundle.manifest import SCHEMA_VERSION, BundleRecord

GroupedBy = Literal["folder", "date-in-name", "prefix", "none"]


def _require_sorted(scores: list[float]) -> list[float]:
    if any(later < earlier for earlier, later in pairwise(scores)):
        raise ValueError("scores must be sorted in ascending order")
    return scores


class CalibrationGroup(BundleRecord):
    """A group of good images that were taken together: one folder, one day, or one prefix of file names."""

    name: str
    count: int = Field(ge=1)


class MeasureRange(BundleRecord):
    """Smallest, median and largest value of a quality measure over the held-out good images."""

    low: float
    median: float
    high: float


class QualityStatistics(BundleRecord):
    """Statistics of the quality measures of the held-out good images; see `service.inspection.quality.Quality`."""

    images: int = Field(ge=1)
    brightness: MeasureRange
    dark_share: MeasureRange
    bright_share: MeasureRange
    sharpness: MeasureRange
    contrast: MeasureRange
    red_share: MeasureRange | None = None
    blue_share: MeasureRange | None = None


class QualityValues(BundleRecord):
    """Quality measures of every held-out good image, in the order of the card's scores."""

    brightness: list[float]
    contrast: list[float]
    sharpness: list[float]
    red_share: list[float]
    blue_share: list[float]


class ImageSizes(BundleRecord):
    """Smallest and largest size of the good images, in pixels as they were sent, and of their aspect ratios.

    Attributes:
        min_width, max_width: Range of the widths.
        min_height, max_height: Range of the heights.
        min_aspect, max_aspect: Range of width / height.
    """

    min_width: int = Field(ge=1)
    max_width: int = Field(ge=1)
    min_height: int = Field(ge=1)
    max_height: int = Field(ge=1)
    min_aspect: float = Field(gt=0)
    max_aspect: float = Field(gt=0)


class GroupShift(BundleRecord):
    """How much the scores of good images rise in a capture group that training has not seen.

    It is an estimate from leave-one-group-out scores of a memory bank alone, not a bound.

    Attributes:
        groups: Number of groups that were compared.
        images: Number of images that were scored.
        known_rate: Share of the images above the threshold when other images of their group are in the memory bank.
        new_rate: Mean over the groups of the share above the same threshold when their group is left out.
        worst_rate: The largest of these shares.
        worst_group: The group with this share.
    """

    groups: int = Field(ge=2)
    images: int = Field(ge=2)
    known_rate: float = Field(ge=0, le=1)
    new_rate: float = Field(ge=0, le=1)
    worst_rate: float = Field(ge=0, le=1)
    worst_group: str


class SanityFigures(BundleRecord):
    """How well the scores separate held-out good images from copies of them with synthetic anomalies.

    Attributes:
        images: Number of held-out good images.
        synthetic: Number of images with a synthetic anomaly.
        image_auroc: AUROC of the image scores.
        pixel_auroc: AUROC of the anomaly maps.
    """

    images: int = Field(ge=1)
    synthetic: int = Field(ge=1)
    image_auroc: float = Field(ge=0, le=1)
    pixel_auroc: float = Field(ge=0, le=1)


class CalibrationCard(BundleRecord):
    """The scores of the held-out good images, computed by the same code that serves the bundle.

    Attributes:
        provider: Execution provider that computed the scores.
        scores: Raw image scores of all held-out good images, ascending.
        groups: The days or folders of the images.
        grouped_by: How the groups were found; "none" means that all images count as one session.
        group_of_score: For every score the index of its image's group in `groups`; None on cards that were written
            before this was recorded.
        map_median: Median of all patch values of the images' maps: 0 on the heatmap's scale.
        map_q99: 99 % quantile of the same values.
        quality: Quality statistics of the images; None on cards that were written before they were measured.
        quality_of_score: For every score the quality measures of its image; None on cards that were written before they
            were recorded.
        image_size: Sizes of all good images, also those of training; None on cards from before this was recorded.
        group_shift: Estimated shift between groups; None if there is only one group, or enough of them to be
            represented by the scores.
        sanity: Figures on synthetic anomalies; None on cards from before they were measured.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    provider: str
    scores: Annotated[list[float], Field(min_length=1), AfterValidator(_require_sorted)]
    groups: list[CalibrationGroup]
    grouped_by: GroupedBy
    group_of_score: list[Annotated[int, Field(ge=0)]] | None = None
    map_median: float
    map_q99: float
    quality: QualityStatistics | None = None
    quality_of_score: QualityValues | None = None
    image_size: ImageSizes | None = None
    group_shift: GroupShift | None = None
    sanity: SanityFigures | None = None

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        if (indices := self.group_of_score) is not None and (
            len(indices) != len(self.scores)
            or Counter(indices) != {index: group.count for index, group in enumerate(self.groups)}
        ):
            raise ValueError(
                "group_of_score must give a group for every score, and each group as often as it has images"
            )
        return self

    @model_validator(mode="after")
    def _check_quality(self) -> Self:
        values = self.quality_of_score
        if values is not None and any(len(column) != len(self.scores) for _, column in values):
            raise ValueError("quality_of_score must give a value of each measure for every score")
        return self

    @property
    def sessions(self) -> int:
        """Return the number of groups that the scores come from; 1 if nothing distinguishes them."""
        return 1 if self.grouped_by == "none" else len(self.groups)

    @property
    def days(self) -> list[str] | None:
        """Return the name of every score's group, or None if the card does not record it."""
        indices = self.group_of_score
        return None if indices is None else [self.groups[index].name for index in indices]
