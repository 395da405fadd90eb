"""The calibration card and the parity certificate of a bundle in words."""

from __future__ import annotations

from dataclasses import dataclass

from service.bundle.bundle import Bundle
from service.bundle.card import CalibrationCard
from service.inspection.calibration import (
    DEFAULT_FAIL_ALPHA,
    bound_rate,
    images_needed,
    percent,
    state_new_group_rate,
)
from service.inspection.inspector import Inspector
from service.recipes.recipe import Recipe


@dataclass(frozen=True)
class ThresholdWords:
    """A threshold of the default recipe and what it guarantees.

    Attributes:
        name: "fail" or "review".
        value: Scores above it fail or need review.
        sentences: The bounds in words.
    """

    name: str
    value: float
    sentences: list[str]


@dataclass(frozen=True)
class MeasureRow:
    """Smallest, median and largest value of a measure over the held-out images."""

    name: str
    low: str
    median: str
    high: str


@dataclass(frozen=True)
class ParityCertificate:
    """The agreement of the graph with the golden maps of its bundle; see `service.bundle.manifest.Parity`.

    Attributes:
        exported: Largest relative difference at export.
        export_provider: Execution provider of that comparison.
        now: Largest relative difference of the golden samples on this machine.
        provider: Execution provider of this machine.
        tolerance: Largest difference at which the bundle is served.
        samples: Number of golden samples.
    """

    exported: float
    export_provider: str
    now: float
    provider: str
    tolerance: float
    samples: int

    @property
    def passed(self) -> bool:
        """Whether both differences are within the tolerance."""
        return self.exported <= self.tolerance and self.now <= self.tolerance


def describe_thresholds(card: CalibrationCard, recipe: Recipe) -> list[ThresholdWords]:
    """Return the thresholds of the card's default recipe with their bounds in words."""
    assert recipe.target_false_reject_rate is not None  # both rates of a default recipe are set
    assert recipe.review_rate is not None
    fail = _bounds(card, recipe.target_false_reject_rate, "fail")
    if recipe.target_false_reject_rate > DEFAULT_FAIL_ALPHA:
        fail.append(
            f"{len(card.scores)} held-out images certify no smaller rate. {percent(DEFAULT_FAIL_ALPHA)} on average "
            f"needs {images_needed(DEFAULT_FAIL_ALPHA)} held-out images."
        )
    return [
        ThresholdWords("fail", recipe.fail_threshold, fail),
        ThresholdWords("review", recipe.review_threshold, _bounds(card, recipe.review_rate, "fail or need review")),
    ]


def _bounds(card: CalibrationCard, alpha: float, what: str) -> list[str]:
    bound = bound_rate(len(card.scores), alpha)
    sentences = [
        f"At most {percent(bound.average)} of good parts {what}, on average over calibrations.",
        (
            f"For this calibration with its {bound.n} images it is at most {percent(bound.confident)}, with "
            f"{100 * bound.confidence:g} % confidence."
        ),
    ]
    if (new_group := state_new_group_rate(card, alpha)) is not None:
        sentences.append(f"Parts of a new capture group: {new_group}.")
    return sentences


def describe_measures(card: CalibrationCard) -> list[MeasureRow]:
    """Return the ranges of the scores, the image quality and the image sizes behind a card."""
    scores = card.scores
    middle = (scores[(len(scores) - 1) // 2] + scores[len(scores) // 2]) / 2
    rows = [MeasureRow("image score", *(f"{value:.4g}" for value in (scores[0], middle, scores[-1])))]
    if (quality := card.quality) is not None:
        for name, measure, factor, unit in (
            ("brightness (0 to 255)", quality.brightness, 1, ""),
            ("contrast (0 to 255)", quality.contrast, 1, ""),
            ("sharpness", quality.sharpness, 1, ""),
            ("black pixels", quality.dark_share, 100, " %"),
            ("saturated pixels", quality.bright_share, 100, " %"),
        ):
            values = (measure.low, measure.median, measure.high)
            rows.append(MeasureRow(name, *(f"{factor * value:.3g}{unit}" for value in values)))
    if (size := card.image_size) is not None:
        rows.append(MeasureRow("image width (pixels)", str(size.min_width), "", str(size.max_width)))
        rows.append(MeasureRow("image height (pixels)", str(size.min_height), "", str(size.max_height)))
    return rows


def list_missing(bundle: Bundle) -> list[str]:
    """Return what the card of a bundle from an earlier version does not record, as sentences."""
    card = bundle.card
    absent = {
        "the quality of the held-out images": card.quality is None,
        "the sizes of the images": card.image_size is None,
        "figures on synthetic anomalies": card.sanity is None,
    }
    names = [name for name, is_absent in absent.items() if is_absent]
    return [f"Not on the calibration card: {', '.join(names)}."] if names else []


def certify_parity(inspector: Inspector) -> ParityCertificate:
    """Return the parity certificate, with the golden samples computed again on this machine.

    Args:
        inspector: The bundle. No other thread may use it.
    """
    recorded, golden = inspector.bundle.manifest.parity, inspector.bundle.golden
    return ParityCertificate(
        exported=recorded.measured,
        export_provider=recorded.provider,
        now=inspector.session.self_test(golden),
        provider=inspector.provider,
        tolerance=recorded.tolerance,
        samples=len(golden),
    )
