"""Bounds of false-reject rates in the words of the service, in the language of a page."""

from __future__ import annotations

from service.inspection.calibration import percent
from service.languages import Texts
from service.languages import mark as _
from service.schemas.common import RateBound


def bound_text(texts: Texts, bound: RateBound, rate: float | None = None) -> str:
    """Return the bounds of a rate. In English, it is the statement that the API returns.

    Args:
        texts: Texts and numbers of the page.
        bound: The bounds.
        rate: The requested rate, for one that is extrapolated.
    """
    bounds = texts.text(
        _("≤ %(average)s on average, ≤ %(confident)s with %(confidence)s %% confidence (n = %(images)s)"),
        average=share_text(texts, bound.average),
        confident=share_text(texts, bound.confident),
        confidence=f"{100 * bound.confidence:g}",
        images=bound.images,
    )
    if bound.certified or rate is None:
        return bounds
    return texts.text(
        _("about %(rate)s, extrapolated; certified: %(bounds)s"), rate=share_text(texts, rate), bounds=bounds
    )


def share_text(texts: Texts, share: float) -> str:
    """Return a share as a percentage, rounded up to two significant digits."""
    number = percent(share).removesuffix(" %")
    return f"{texts.number(float(number), len(number.partition('.')[2]))} %"
