"""The position of a score and of its thresholds on the fixed scale of a product, and a p-value in words.

`static/js/score-scale.js` computes the same for inspections that arrive while a page is open.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.inspection.heatmap.scale import FULL_SCALE
from service.languages import Texts
from service.languages import mark as _

WIDTH = 1000
"""Width of the scale in units of its drawing."""
FAIL_PLACE = 1 / FULL_SCALE
"""Place of the fail threshold as a share of the scale: that of the heatmap's scale, whose colours are beside it."""
_RARE_P = 0.5


@dataclass(frozen=True)
class ScoreScale:
    """A scale from 0 to `WIDTH`. The fail threshold is always at the same place.

    Attributes:
        review: Place of the review threshold.
        fail: Place of the fail threshold.
        score: Place of the score; that of an end if the score is beyond it.
        is_beyond: Whether the score is beyond an end of the scale.
    """

    review: float
    fail: float
    score: float
    is_beyond: bool


def score_scale(score: float, review: float, fail: float, low: float) -> ScoreScale:
    """Return the places on the scale of a product.

    Args:
        score: Raw score.
        review: Review threshold.
        fail: Fail threshold.
        low: Start of the scale: the median of the maps of good images, or what the recipe states instead.
    """
    low = min(low, review)
    span = (fail - low) / FAIL_PLACE or 1.0

    def place(value: float) -> float:
        return round(WIDTH * min(1.0, max(0.0, (value - low) / span)), 1)

    return ScoreScale(place(review), place(fail), place(score), not low <= score <= low + span)


def describe_p_value(p_value: float, calibration_images: int, texts: Texts) -> str:
    """Return a p-value in words.

    Args:
        p_value: The p-value, in (0, 1].
        calibration_images: Number of good images that it is relative to.
        texts: Texts of a language.
    """
    if p_value >= _RARE_P:
        return texts.text(
            _("%(share)s of good parts have a score at least as large: the part is not unusual."),
            share=texts.percent(p_value, 0),
        )
    number = texts.number(round(1 / p_value))
    # The smallest p-value that a calibration of n images can give is 1 / (n + 1).
    if p_value * (calibration_images + 1) <= 1 + 1e-9:
        return texts.text(
            _(
                "None of the %(images)s good calibration images has a score as large: it is expected of at most "
                "1 in %(number)s good parts."
            ),
            images=texts.number(calibration_images),
            number=number,
        )
    return texts.text(_("About 1 in %(number)s good parts has a score at least as large."), number=number)
