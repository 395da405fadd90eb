"""The HTML report of an evaluation: one self-contained file without scripts, with embedded images and plots."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from service.inspection.decision import Decision
from service.inspection.heatmap import encode, render
from service.inspection.image_files import path_text
from service.inspection.inspector import Inspector
from training import metrics
from training.dataset import UInt8Images, read_rgb
from training.evaluate import LABELS, Evaluation, ImageResult, by_defect, inspect_file

WIDTH, HEIGHT = 640, 240  # plot area, SVG units
BINS = 48
SHOWN_EACH = 8  # images per section
IMAGE_SIDE = 320  # longer side of an embedded image, pixels
LOG_AXIS_FROM = 10.0  # the axis is logarithmic if the scores span more than this factor


@dataclass(frozen=True)
class Bar:
    """One bar of the histogram, in SVG units from the upper left corner."""

    x: float
    width: float
    good: float
    defective: float


@dataclass(frozen=True)
class Tick:
    """A tick of the score axis, `x` in SVG units."""

    x: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """Histogram of the scores of good and defective parts.

    Bar heights are shares of each kind, scaled to the highest bar; positions are in SVG units.
    """

    bars: list[Bar]
    ticks: list[Tick]
    fail_x: float
    review_x: float
    logarithmic: bool


@dataclass(frozen=True)
class Shown:
    """An image and its heatmap overlay, as data URLs, with the inspection's result."""

    name: str
    defect: str
    score: float
    p_value: float
    decision: Decision
    image: str
    overlay: str


@dataclass(frozen=True)
class Section:
    """A section of images with its title and introduction."""

    title: str
    remark: str
    shown: list[Shown]


def write_report(evaluation: Evaluation, inspector: Inspector, path: Path) -> None:
    """Write the report.

    Args:
        evaluation: The result of `evaluate`.
        inspector: The same bundle; it computes the overlays, on the product's fixed scale.
        path: The HTML file to write.
    """
    environment = Environment(
        loader=PackageLoader("training"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    manifest = inspector.bundle.manifest
    page = environment.get_template("report.html.j2").render(
        evaluation=evaluation,
        manifest=manifest,
        card=inspector.card,
        provider=inspector.provider,
        labels=LABELS,
        by_defect=by_defect(evaluation.images),
        histogram=histogram(evaluation),
        roc=roc_points(evaluation.images),
        sections=[_false_rejects(evaluation, inspector), _misses(evaluation, inspector)],
        width=WIDTH,
        height=HEIGHT,
    )
    path.write_text(page, encoding="utf-8")


def histogram(evaluation: Evaluation) -> Histogram:
    """Compute the histogram of the scores, with the positions of the thresholds."""
    scores = np.array([image.score for image in evaluation.images])
    defective = np.array([image.defective for image in evaluation.images])
    thresholds = (evaluation.recipe.fail_threshold, evaluation.recipe.review_threshold)
    low, high = min(scores.min(), *thresholds), max(scores.max(), *thresholds)
    logarithmic = bool(low > 0 and high / low > LOG_AXIS_FROM)
    if logarithmic:
        scores, low, high = np.log10(scores), math.log10(low), math.log10(high)
    span = max(high - low, 1e-12)

    def x_of(value: float) -> float:
        return round(float(WIDTH * ((math.log10(value) if logarithmic else value) - low) / span), 2)

    def heights(kind: np.ndarray) -> np.ndarray:
        counts, _ = np.histogram(kind, bins=BINS, range=(low, low + span))
        return np.asarray(counts / len(kind))

    good, bad = heights(scores[~defective]), heights(scores[defective])
    tallest = max(good.max(), bad.max())
    step = WIDTH / BINS
    bars = [
        Bar(round(index * step, 2), round(step, 2), round(HEIGHT * g / tallest, 2), round(HEIGHT * b / tallest, 2))
        for index, (g, b) in enumerate(zip(good, bad, strict=True))
    ]
    marks = np.linspace(low, low + span, 6)
    values = 10**marks if logarithmic else marks
    ticks = [Tick(round(WIDTH * index / 5, 2), f"{value:.3g}") for index, value in enumerate(values)]
    return Histogram(bars, ticks, x_of(thresholds[0]), x_of(thresholds[1]), logarithmic)


def roc_points(images: Sequence[ImageResult]) -> str:
    """Return the ROC curve as the points of an SVG polyline, in a square of side `HEIGHT`."""
    scores = np.array([image.score for image in images])
    fpr, tpr = metrics.roc_curve(scores, np.array([image.defective for image in images]))
    return " ".join(f"{HEIGHT * x:.2f},{HEIGHT * (1 - y):.2f}" for x, y in zip(fpr, tpr, strict=True))


def _false_rejects(evaluation: Evaluation, inspector: Inspector) -> Section:
    good = sorted((i for i in evaluation.images if not i.defective), key=lambda image: -image.score)
    wrong = [image for image in good if image.false_reject]
    remark = (
        f"{len(wrong)} of {len(good)} good parts fail; highest score first."
        if wrong
        else "No good part fails. The highest-scoring good parts:"
    )
    return Section("False rejects", remark, _show(wrong or good, evaluation, inspector))


def _misses(evaluation: Evaluation, inspector: Inspector) -> Section:
    defective = sorted((i for i in evaluation.images if i.defective), key=lambda image: image.score)
    wrong = [image for image in defective if image.missed]
    remark = (
        f"{len(wrong)} of {len(defective)} defective parts pass; lowest score first."
        if wrong
        else "No defective part passes. The lowest-scoring defective parts:"
    )
    return Section("Misses", remark, _show(wrong or defective, evaluation, inspector))


def _show(images: Sequence[ImageResult], evaluation: Evaluation, inspector: Inspector) -> list[Shown]:
    criteria = evaluation.recipe.criteria
    scale = inspector.heatmap_scale(criteria.thresholds)
    shown = []
    for image in images[:SHOWN_EACH]:
        inspection = inspect_file(inspector, image.path, criteria)
        rgb = read_rgb(image.path)
        overlay = render(rgb, inspection.anomaly_map, scale, inspection.regions)
        shown.append(
            Shown(
                name=path_text(image.path.name),
                defect=image.defect,
                score=image.score,
                p_value=image.p_value,
                decision=image.decision,
                image=_data_url(rgb),
                overlay=_data_url(overlay),
            )
        )
    return shown


def shrunk(rgb: UInt8Images) -> UInt8Images:
    """Shrink an image, uint8 `[H, W, 3]`, to a longer side of at most `IMAGE_SIDE` pixels."""
    factor = IMAGE_SIDE / max(rgb.shape[:2])
    if factor >= 1:
        return rgb
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _data_url(rgb: UInt8Images) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode(shrunk(rgb), "image/jpeg", quality=85)).decode()
