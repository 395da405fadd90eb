"""The limit of the quality check that the newest image is nearest to, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from service.languages import Texts
from service.languages import mark as _
from service.schemas.recipe_preview import QualityDistribution

LIMIT_NAMES: Mapping[tuple[str, str], str] = {
    ("min", "brightness"): _("Smallest mean gray level"),
    ("max", "brightness"): _("Largest mean gray level"),
    ("max", "dark_share"): _("Largest share of black pixels"),
    ("max", "bright_share"): _("Largest share of saturated pixels"),
    ("min", "sharpness"): _("Smallest sharpness"),
    ("min", "contrast"): _("Smallest contrast"),
}
"""Names of the limits in English, messages of the catalogue, by side and measure."""
# The measures are not negative, so no image violates a lower limit of 0, nor an upper limit of these values.
_LARGEST = {"brightness": 255.0, "dark_share": 1.0, "bright_share": 1.0}


@dataclass(frozen=True)
class NearestLimit:
    """A limit, and how far the newest image is from it.

    Attributes:
        side: `min` for a lower limit, `max` for an upper one.
        measure: The measure.
        limit: The limit.
        newest: Value of the newest image, in units of the measure.
        distance: Distance of the value from the limit in units of the measure; negative beyond the limit.
        share: The distance as a share of the limit; of 1 for an upper limit of 0.
    """

    side: str
    measure: str
    limit: float
    newest: float
    distance: float
    share: float

    def text(self, texts: Texts) -> str:
        """Return a sentence that names the limit and states the distance.

        Args:
            texts: Texts and numbers of the page.
        """
        if self.distance < 0:
            message = _(
                "The newest image is beyond a limit: %(name)s %(limit)s. It measured %(newest)s, which is beyond it by "
                "%(distance)s (%(share)s of the limit)."
            )
        else:
            message = _(
                "Nearest limit: %(name)s %(limit)s. The newest image measured %(newest)s, which is within it by "
                "%(distance)s (%(share)s of the limit)."
            )
        return texts.text(
            message,
            name=texts.text(LIMIT_NAMES[self.side, self.measure]),
            limit=texts.significant(self.limit),
            newest=texts.significant(self.newest),
            distance=texts.significant(abs(self.distance), 3),
            share=texts.percent(abs(self.share), 1 if abs(self.share) < 0.1 else 0),
        )


def nearest_limit(quality: Iterable[QualityDistribution]) -> NearestLimit | None:
    """Return the limit in force that the newest image is nearest to; None without an image or a limit.

    The measures have different units, so distances are compared as shares of their limits: a change of the light by a
    share changes the mean gray level by the same share.

    Args:
        quality: The measures of the quality check.
    """
    return min(_limits(quality), key=lambda one: one.share, default=None)


def _limits(quality: Iterable[QualityDistribution]) -> Iterator[NearestLimit]:
    """Yield the limits that an image can violate, with the newest image's distance."""
    for item in quality:
        if item.newest is None:
            continue
        if item.low is not None and item.low > 0:
            distance = item.newest - item.low
            yield NearestLimit("min", item.measure, item.low, item.newest, distance, distance / item.low)
        if item.high is not None and item.high < _LARGEST.get(item.measure, float("inf")):
            distance = item.high - item.newest
            yield NearestLimit("max", item.measure, item.high, item.newest, distance, distance / (item.high or 1.0))
