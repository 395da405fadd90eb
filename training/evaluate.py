"""Evaluation of a bundle on labelled test images, with the service's code.

Threshold-free figures (AUROC, AUPRO, average precision) measure how well the scores separate good from defective
images. The rates are those of the thresholds that were calibrated on good images alone. No setting is chosen by the
test images. Every figure has a 95 % confidence interval, see `training.intervals`.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from service.inspection.calibration import RateBound, bound_rate
from service.inspection.decision import Criteria, Decision
from service.inspection.image_files import path_text
from service.inspection.inspector import Inspector
from service.inspection.records import Inspection
from service.recipes.recipe import Recipe
from training import intervals, metrics
from training.dataset import TestImage, image_errors
from training.files import write_text
from training.intervals import Interval
from training.masks import read_mask


@dataclass(frozen=True)
class ImageResult:
    """The decision on one test image.

    Attributes:
        path: The image file.
        defect: "good" or the kind of defect.
        defective: Whether the image shows a defective part.
        score: The image score, unbounded.
        p_value: The conformal p-value, in (0, 1].
        decision: The decision at the calibrated thresholds.
        mask: The file of its ground-truth mask, None without one.
    """

    path: Path
    defect: str
    defective: bool
    score: float
    p_value: float
    decision: Decision
    mask: Path | None = None

    @property
    def false_reject(self) -> bool:
        """Whether a good part fails."""
        return not self.defective and self.decision is Decision.FAIL

    @property
    def missed(self) -> bool:
        """Whether a defective part passes."""
        return self.defective and self.decision is Decision.PASS


@dataclass(frozen=True)
class Evaluation:
    """The results of a bundle on a test split.

    Attributes:
        product: Product of the bundle.
        version: Version of the bundle.
        method: Registry name of the method.
        recipe: The default recipe, with the calibrated thresholds.
        figures: Detection and localisation figures, each in 0..1; pixel figures only if there are masks.
        intervals: The 95 % confidence interval of every figure.
        data: The folder of the test split.
        measured_at: Time of the evaluation.
        notes: What is excluded from the figures, and why.
        images: The decision on every image.
        pro_curve: The curve under which AUPRO is the area, see `metrics.PixelFigures`; None without masks.
    """

    product: str
    version: str
    method: str
    recipe: Recipe
    figures: dict[str, float]
    intervals: dict[str, Interval]
    data: Path
    measured_at: datetime
    notes: tuple[str, ...]
    images: tuple[ImageResult, ...]
    pro_curve: tuple[metrics.Floats, metrics.Floats] | None = field(default=None, repr=False, compare=False)

    @property
    def bound(self) -> RateBound:
        """The certified false-reject rate of the recipe, on average and for this calibration."""
        assert self.recipe.target_false_reject_rate is not None  # the default recipe is derived from the card
        return bound_rate(self.recipe.calibration_images, self.recipe.target_false_reject_rate)

    def as_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values, with the figures by kind of defect."""
        images = [
            {**asdict(image), "path": path_text(image.path), "mask": image.mask and path_text(image.mask)}
            for image in self.images
        ]
        return {
            "product": self.product,
            "version": self.version,
            "method": self.method,
            "recipe": self.recipe.model_dump(mode="json"),
            "data": str(self.data),
            "measured_at": self.measured_at.isoformat(timespec="seconds"),
            "figures": self.figures,
            "intervals": self.intervals,
            "interval_methods": intervals.METHODS,
            "certified_false_reject_rate": str(self.bound),
            "notes": list(self.notes),
            "by_defect": by_defect(self.images),
            "images": images,
        }

    def write_json(self, path: Path) -> None:
        """Write the evaluation to a JSON file, atomically."""
        write_text(path, json.dumps(self.as_json(), indent=2) + "\n")


def evaluate(
    inspector: Inspector,
    images: Sequence[TestImage],
    progress: Callable[[int], None] | None = None,
    *,
    data: Path = Path(),
) -> Evaluation:
    """Inspect every test image and compare the results with the labels.

    Args:
        inspector: The product, opened as the service opens it.
        images: Test images, at least one good and one defective.
        progress: Called with the number of images done so far.
        data: The folder of the test split, for the report.

    Raises:
        UnreadableImage: An image or a mask cannot be read; the message names it.
        MaskMismatch: A mask does not have the size of its image.
        ValueError: There is no good or no defective image.
    """
    recipe = Recipe.default(inspector.card.scores)
    pixels = metrics.PixelScores()
    results: list[ImageResult] = []
    unmasked = seen = 0
    known = inspector.bundle.images
    for done, image in enumerate(images, 1):
        inspection = inspect_file(inspector, image.path, recipe.criteria)
        results.append(
            ImageResult(
                path=image.path,
                defect=image.defect,
                defective=image.defective,
                score=inspection.score,
                p_value=inspection.p_value,
                decision=inspection.decision,
                mask=image.mask,
            )
        )
        seen += known is not None and known.role_of(inspection.image.sha256) is not None
        if image.mask is not None or not image.defective:
            pixels.add(inspection.anomaly_map, read_mask(image.mask, inspection.image.image_wh))
        else:
            unmasked += 1
        if progress is not None:
            progress(done)
    notes = [f"defective images without a mask, excluded from the pixel figures: {unmasked}"] if unmasked else []
    pro_curve = None
    figures, found = _image_figures(results)
    rates, of_rates = _rates(results)
    figures |= rates
    found |= of_rates
    if pixels.regions:
        found |= intervals.bootstrap_pixels(pixels.images)
        localised = pixels.figures()
        pro_curve = localised.pro_curve
        figures |= {
            "pixel_auroc": localised.auroc,
            "aupro": localised.aupro,
            "pixel_average_precision": localised.average_precision,
            "pixel_f1_max": localised.f1_max,
        }
    else:
        notes = ["there are no masks, so pixel figures are omitted"]
    if seen:
        notes.append(f"test images that the bundle was made from, for which the figures are too favourable: {seen}")
    return Evaluation(
        product=inspector.bundle.manifest.product,
        version=inspector.bundle.version,
        method=inspector.bundle.manifest.method,
        recipe=recipe,
        figures=figures,
        intervals=found,
        data=data,
        measured_at=datetime.now(UTC),
        notes=tuple(notes),
        images=tuple(results),
        pro_curve=pro_curve,
    )


def inspect_file(inspector: Inspector, path: Path, criteria: Criteria) -> Inspection:
    """Inspect one image file.

    Raises:
        UnreadableImage: The file is missing, damaged or not an image.
    """
    with image_errors(path):
        return inspector.inspect(path.read_bytes(), criteria)


def by_defect(images: Sequence[ImageResult]) -> dict[str, dict[str, float]]:
    """Return the figures by kind of image: number, median score, decisions, and AUROC against all good images."""
    good = [image.score for image in images if not image.defective]
    table: dict[str, dict[str, float]] = {}
    for name in sorted({image.defect for image in images}, key=lambda name: (name != "good", name)):
        members = [image for image in images if image.defect == name]
        scores = [image.score for image in members]
        decisions = Counter(image.decision for image in members)
        row: dict[str, float] = {"images": len(members), "median_score": float(np.median(scores))}
        row |= {str(decision): decisions[decision] for decision in Decision}
        if name != "good":
            labels = np.array([False] * len(good) + [True] * len(scores))
            row["image_auroc"] = metrics.auroc(np.array(good + scores), labels)
        table[name] = row
    return table


LABELS = {
    "image_auroc": "image AUROC",
    "image_average_precision": "image average precision",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "aupro": f"AUPRO (FPR ≤ {metrics.AUPRO_FPR_LIMIT:g}, whole data set)",
    "pixel_average_precision": "pixel average precision",
    "pixel_f1_max": "pixel F1-max",
    "false_reject_rate": "good parts that fail",
    "good_review_rate": "good parts for review",
    "miss_rate": "defective parts that pass",
    "defective_review_rate": "defective parts for review",
}


def summary_table(evaluation: Evaluation) -> Table:
    """Return a table of the decisions by kind of image, followed by the figures."""
    table = Table(title=f"{evaluation.product} {evaluation.version} ({evaluation.method})", title_justify="left")
    for column in ("", "images", "AUROC", "pass", "review", "fail"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in by_defect(evaluation.images).items():
        auroc = f"{100 * row['image_auroc']:.2f} %" if "image_auroc" in row else ""
        counts = [f"{row[key]:.0f}" for key in ("pass", "review", "fail")]
        table.add_row(name, f"{row['images']:.0f}", auroc, *counts)
    table.add_section()
    for key, label in LABELS.items():
        if key in evaluation.figures:
            low, high = evaluation.intervals[key]
            value = f"{100 * evaluation.figures[key]:.2f} %"
            table.add_row(f"{label} [{100 * low:.1f}, {100 * high:.1f}]", "", value, "", "", "")
    table.caption = (
        f"In brackets: 95 % confidence intervals. Good parts that fail, certified: {evaluation.bound}, for images like "
        "the held-out ones."
    )
    table.caption_justify = "left"
    return table


def _image_figures(results: Sequence[ImageResult]) -> tuple[dict[str, float], dict[str, Interval]]:
    """Return the figures of the image scores and their intervals."""
    scores = np.array([result.score for result in results])
    defective = np.array([result.defective for result in results])
    resampled = {"image_average_precision": metrics.average_precision, "image_f1_max": metrics.f1_max}
    auroc = metrics.auroc(scores, defective)
    figures = {"image_auroc": auroc, **{name: figure(scores, defective) for name, figure in resampled.items()}}
    found = {"image_auroc": intervals.auroc_interval(auroc, int((~defective).sum()), int(defective.sum()))}
    found |= {name: intervals.bootstrap_images(figure, scores, defective) for name, figure in resampled.items()}
    return figures, found


def _rates(results: Sequence[ImageResult]) -> tuple[dict[str, float], dict[str, Interval]]:
    """Return the rates of the decisions and their intervals."""
    figures: dict[str, float] = {}
    found: dict[str, Interval] = {}
    for name, defective, decision in (
        ("false_reject_rate", False, Decision.FAIL),
        ("good_review_rate", False, Decision.REVIEW),
        ("miss_rate", True, Decision.PASS),
        ("defective_review_rate", True, Decision.REVIEW),
    ):
        decisions = [result.decision for result in results if result.defective == defective]
        count = decisions.count(decision)
        figures[name] = count / len(decisions)
        found[name] = intervals.rate_interval(count, len(decisions))
    return figures, found
