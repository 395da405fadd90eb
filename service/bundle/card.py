"""The calibration card: the scores of the held-out good images."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from service.bundle.manifest import SCHEMA_VERSION, _Record

GroupedBy = Literal["folder", "date-in-name", "none"]


def _require_sorted(scores: list[float]) -> list[float]:
    if any(later < earlier for earlier, later in pairwise(scores)):
        raise ValueError("scores must be sorted in ascending order")
    return scores


class CalibrationGroup(_Record):
    """Good images that were taken together: one folder or one day."""

    name: str
    count: int = Field(ge=1)


class MeasureRange(_Record):
    """Smallest, median and largest value of a measure over the held-out good images."""

    low: float
    median: float
    high: float


class QualityStatistics(_Record):
    """What the held-out good images look like, measure by measure; see `service.inspection.quality.Quality`."""

    images: int = Field(ge=1)
    brightness: MeasureRange
    dark_share: MeasureRange
    bright_share: MeasureRange
    sharpness: MeasureRange
    contrast: MeasureRange


class CalibrationCard(_Record):
    """What the held-out good images scored, through the very code that serves.

    Attributes:
        provider: Execution provider that computed the scores.
        scores: Raw image scores of all held-out good images, ascending.
        groups: The days or folders that they cover.
        grouped_by: What told the groups apart; "none" means that all images count as one session.
        group_of_score: For every score the place of its image's group in `groups`; None on cards that were written
            before it was kept.
        map_median: Median of all patch values of these images' maps: 0 on the heatmap's scale.
        map_q99: Their 99 % quantile.
        quality: What these images look like; None in cards that were made before this was measured.
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

    @model_validator(mode="after")
    def _know_the_groups(self) -> Self:
        if (places := self.group_of_score) is not None and (
            len(places) != len(self.scores)
            or [places.count(place) for place in range(len(self.groups))] != [group.count for group in self.groups]
        ):
            raise ValueError("group_of_score must name a group for every score, each group as often as it has images")
        return self

    @property
    def days(self) -> list[str] | None:
        """The name of every score's group, None where the card does not tell."""
        places = self.group_of_score
        return None if places is None else [self.groups[place].name for place in places]
