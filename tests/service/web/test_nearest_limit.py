"""The nearest limit of the quality check on the recipe page."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from service.languages import Texts
from service.schemas.recipe_preview import Histogram, QualityDistribution
from service.serving.distributions import LIMITS
from service.web.nearest_limit import LIMIT_NAMES, nearest_limit
from service.web.page import CATALOGUES

ENGLISH, GERMAN = (Texts(language, ZoneInfo("UTC"), CATALOGUES) for language in ("en", "de"))


def measured(
    measure: str, newest: float | None, low: float | None = None, high: float | None = None
) -> QualityDistribution:
    return QualityDistribution.model_validate(
        {
            "measure": measure,
            "edges": [0.0, 1.0],
            "recent": Histogram(counts=[1], below=0, above=0, total=1),
            "newest": newest,
            "median": newest,
            "low": low,
            "high": high,
            "derived_low": None,
            "derived_high": None,
        }
    )


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        ([measured("brightness", 120, 100, 200), measured("sharpness", 30, 10)], ("min", "brightness", 20, 0.2)),
        ([measured("brightness", 150, 60, 200), measured("sharpness", 11, 10)], ("min", "sharpness", 1, 0.1)),
        (
            [measured("brightness", 190, 100, 200), measured("bright_share", 0.01, high=0.05)],
            ("max", "brightness", 10, 0.05),
        ),
        ([measured("brightness", 210, 100, 200), measured("sharpness", 11, 10)], ("max", "brightness", -10, -0.05)),
        ([measured("dark_share", 0.0, high=0.0), measured("contrast", 11, 10)], ("max", "dark_share", 0, 0)),
    ],
)
def test_limit_with_the_smallest_relative_distance_is_named(
    quality: list[QualityDistribution], expected: tuple[str, str, float, float]
) -> None:
    found = nearest_limit(quality)
    assert found is not None
    assert (found.side, found.measure) == expected[:2]
    assert (found.distance, found.share) == pytest.approx(expected[2:])


def test_limits_that_no_image_violates_are_left_out() -> None:
    without_effect = [
        measured("brightness", 254, 0, 255),
        measured("dark_share", 1.0, high=1.0),
        measured("bright_share", 1.0, high=1.0),
        measured("sharpness", 0.0, 0.0),
    ]
    assert nearest_limit(without_effect) is None
    assert nearest_limit([measured("brightness", None, 100, 200)]) is None, "no image yet"
    found = nearest_limit([*without_effect, measured("contrast", 50, 10)])
    assert found is not None
    assert found.measure == "contrast"


def test_text_names_limit_value_and_distance_in_the_language_of_the_page() -> None:
    found = nearest_limit([measured("brightness", 190.5, 100, 200)])
    assert found is not None
    assert found.text(ENGLISH) == (
        "Nearest limit: Largest mean gray level 200.0. The newest image measured 190.5, which is within it by 9.50 "
        "(4.8% of the limit)."
    )
    assert found.text(GERMAN) == (
        "Nächste Grenze: Größter mittlerer Grauwert 200,0. Beim neuesten Bild wurden 190,5 gemessen; es hält sie mit "
        "einem Abstand von 9,50 ein (4,8\xa0% der Grenze)."
    )
    beyond = nearest_limit([measured("sharpness", 5, 10)])
    assert beyond is not None
    assert beyond.text(ENGLISH) == (
        "The newest image is beyond a limit: Smallest sharpness 10.00. It measured 5.000, which is beyond it by 5.00 "
        "(50% of the limit)."
    )


def test_every_limit_has_a_name() -> None:
    sides = {
        (side, measure)
        for measure, pair in LIMITS.items()
        for side, name in zip(("min", "max"), pair, strict=True)
        if name
    }
    assert set(LIMIT_NAMES) == sides
