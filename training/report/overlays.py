"""The images of the report: worst and best results as overlays with the outlines of the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from service.inspection.decision import Criteria, Decision
from service.inspection.heatmap import FULL_SCALE, HeatmapScale, render
from service.inspection.image_files import path_text
from service.inspection.inspector import Inspector
from service.inspection.records import Inspection
from training.dataset import UInt8Images, read_rgb
from training.evaluate import Evaluation, ImageResult, inspect_file
from training.html_pages import data_url, shrunk
from training.masks import read_mask

# Images per section. There are two sections of the worst and two of the best images: at most 24 with their overlays.
WORST_EACH, BEST_EACH = 8, 4
TRUTH_RGB = (0, 230, 0)  # outlines of the ground truth
LEGEND_WH = (320, 18)  # size of the colour scale, pixels


@dataclass(frozen=True)
class Shown:
    """An image and its heatmap overlay, as data URLs, with the inspection's result."""

    name: str
    defect: str
    score: float
    p_value: float
    decision: Decision
    outlined: bool
    regions: int
    image: str
    overlay: str


@dataclass(frozen=True)
class Section:
    """A section of images with its title and introduction."""

    anchor: str
    title: str
    remark: str
    shown: list[Shown]


@dataclass(frozen=True)
class _Plan:
    """A section before its images are drawn."""

    anchor: str
    title: str
    remark: str
    images: Sequence[ImageResult]


class Montage:
    """The sections of worst and best images of an evaluation.

    Args:
        evaluation: The evaluation.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._criteria = evaluation.recipe.criteria
        worst = [*_false_rejects(evaluation), *_misses(evaluation)]
        self._plans = [*worst, *_best(evaluation, {image.path for plan in worst for image in plan.images})]

    @property
    def total(self) -> int:
        """Number of images that will be drawn."""
        return sum(len(plan.images) for plan in self._plans)

    def draw(self, inspector: Inspector, progress: Callable[[int], None]) -> list[Section]:
        """Inspect the images again and draw them.

        Args:
            inspector: The bundle.
            progress: Called with the number of images done so far.

        Raises:
            UnreadableImage: An image or a mask cannot be read any more.
        """
        done, sections = 0, []
        for plan in self._plans:
            shown = []
            for image in plan.images:
                shown.append(_show(image, inspector, self._criteria))
                done += 1
                progress(done)
            sections.append(Section(plan.anchor, plan.title, plan.remark, shown))
        return sections


def _good(evaluation: Evaluation) -> list[ImageResult]:
    """Return the good images, highest score first."""
    return sorted((image for image in evaluation.images if not image.defective), key=lambda image: -image.score)


def _defective(evaluation: Evaluation) -> list[ImageResult]:
    """Return the defective images, lowest score first."""
    return sorted((image for image in evaluation.images if image.defective), key=lambda image: image.score)


def _false_rejects(evaluation: Evaluation) -> list[_Plan]:
    good = _good(evaluation)
    wrong = [image for image in good if image.false_reject]
    remark = f"{len(wrong)} of {len(good)} good parts fail{_order(wrong, 'highest')}."
    plans = [_Plan("false-rejects", "False rejects", remark, wrong[:WORST_EACH])]
    if not wrong:
        remark = "No good part fails. These have the highest scores."
        plans.append(_Plan("highest-good", "Good parts with the highest scores", remark, good[:WORST_EACH]))
    return plans


def _misses(evaluation: Evaluation) -> list[_Plan]:
    defective = _defective(evaluation)
    wrong = [image for image in defective if image.missed]
    remark = f"{len(wrong)} of {len(defective)} defective parts pass{_order(wrong, 'lowest')}."
    plans = [_Plan("misses", "Misses", remark, wrong[:WORST_EACH])]
    if not wrong:
        remark = "No defective part passes. These have the lowest scores."
        title = "Defective parts with the lowest scores"
        plans.append(_Plan("lowest-defective", title, remark, defective[:WORST_EACH]))
    return plans


def _best(evaluation: Evaluation, worst: Collection[Path]) -> list[_Plan]:
    """Return the correct results that are farthest from the thresholds and are not among the worst."""

    def correct(images: Sequence[ImageResult], decision: Decision) -> list[ImageResult]:
        return [image for image in images if image.decision is decision and image.path not in worst]

    found = correct(_defective(evaluation), Decision.FAIL)
    passed = correct(_good(evaluation), Decision.PASS)
    titles = (
        ("highest-defective", "Defective parts with the highest scores", "defects that are found most clearly", found),
        ("lowest-good", "Good parts with the lowest scores", "good parts that pass most clearly", passed),
    )
    return [
        _Plan(anchor, title, f"The {what}, clearest first.", images[: -BEST_EACH - 1 : -1])
        for anchor, title, what, images in titles
        if images
    ]


def _order(images: Sequence[ImageResult], end: str) -> str:
    count = f" (the first {WORST_EACH} are shown)" if len(images) > WORST_EACH else ""
    return f"; {end} score first{count}" if images else ""


def _show(image: ImageResult, inspector: Inspector, criteria: Criteria) -> Shown:
    rgb, overlay, inspection = draw_overlay(inspector, image.path, image.mask, criteria)
    return Shown(
        name=path_text(image.path.name),
        defect=image.defect,
        score=image.score,
        p_value=image.p_value,
        decision=image.decision,
        outlined=image.mask is not None,
        regions=len(inspection.regions),
        image=data_url(rgb),
        overlay=data_url(overlay),
    )


def draw_overlay(
    inspector: Inspector, path: Path, mask: Path | None, criteria: Criteria
) -> tuple[UInt8Images, UInt8Images, Inspection]:
    """Inspect an image and draw its heatmap with the outlines of the ground truth.

    Args:
        inspector: The product.
        path: The image file.
        mask: The file of its ground-truth mask, None without one.
        criteria: The criteria of the decision.

    Returns:
        The image and its overlay, uint8 `[h, w, 3]`, with a longer side of at most `html_pages.IMAGE_SIDE` pixels, and
        the inspection.
    """
    inspection = inspect_file(inspector, path, criteria)
    rgb = read_rgb(path)
    overlay = render(rgb, inspection.anomaly_map, inspector.heatmap_scale(criteria.thresholds), inspection.regions)
    small = shrunk(overlay)
    if mask is not None:
        truth = read_mask(mask, inspection.image.image_wh).astype(np.uint8)
        size = (small.shape[1], small.shape[0])
        # Drawn after shrinking, so that the lines keep their width.
        truth = np.asarray(cv2.resize(truth * 255, size, interpolation=cv2.INTER_AREA) > 0, np.uint8)
        small = np.ascontiguousarray(small)
        contours, _ = cv2.findContours(truth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(small, contours, -1, (0, 0, 0), 3)
        cv2.drawContours(small, contours, -1, TRUTH_RGB, 1)
    return shrunk(rgb), small, inspection


def colour_scale() -> str:
    """Return the colours of the heatmap as a data URL, from the median of good parts to the end of the scale.

    It is drawn over gray by the function that draws the heatmaps, so both always agree.
    """
    width, height = LEGEND_WH
    ramp = np.tile(np.linspace(0, FULL_SCALE, width, dtype=np.float32), (height, 1))
    gray = np.full((height, width, 3), 160, np.uint8)
    return data_url(render(gray, ramp, HeatmapScale(low=0.0, high=1.0)))
