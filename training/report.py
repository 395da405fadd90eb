"""The HTML report of an evaluation: one self-contained file without scripts, with embedded images and plots."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from service.inspection.calibration import describe_card
from service.inspection.decision import Criteria, Decision
from service.inspection.heatmap import FULL_SCALE, HeatmapScale, encode, render
from service.inspection.image_files import path_text
from service.inspection.inspector import Inspector
from service.inspection.records import Inspection
from training import intervals, plots
from training.dataset import UInt8Images, read_rgb
from training.evaluate import LABELS, Evaluation, ImageResult, by_defect, inspect_file
from training.masks import read_mask

SHOWN_EACH = 8  # images per section
IMAGE_SIDE = 320  # longer side of an embedded image, pixels
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
        notes=[f"Weak bundle: {reason}." for reason in manifest.training.weak] + describe_card(inspector.card),
        interval_methods=intervals.METHODS,
        histogram=plots.histogram(evaluation),
        curves=[plots.roc(evaluation.images), plots.precision_recall(evaluation.images)],
        unit_ticks=plots.UNIT_TICKS,
        sections=[*_false_rejects(evaluation, inspector), *_misses(evaluation, inspector)],
        colour_scale=colour_scale(),
        fail_position=LEGEND_WH[0] / FULL_SCALE,
        legend_width=LEGEND_WH[0],
        truth_colour="rgb" + str(TRUTH_RGB),
        width=plots.WIDTH,
        height=plots.HEIGHT,
    )
    path.write_text(page, encoding="utf-8")


def _false_rejects(evaluation: Evaluation, inspector: Inspector) -> list[Section]:
    good = sorted((i for i in evaluation.images if not i.defective), key=lambda image: -image.score)
    wrong = [image for image in good if image.false_reject]
    remark = f"{len(wrong)} of {len(good)} good parts fail{_shown(wrong, 'highest')}."
    sections = [Section("False rejects", remark, _show(wrong, evaluation, inspector))]
    if not wrong:
        remark = "No good part fails. These have the highest scores."
        sections.append(Section("Good parts with the highest scores", remark, _show(good, evaluation, inspector)))
    return sections


def _misses(evaluation: Evaluation, inspector: Inspector) -> list[Section]:
    defective = sorted((i for i in evaluation.images if i.defective), key=lambda image: image.score)
    wrong = [image for image in defective if image.missed]
    remark = f"{len(wrong)} of {len(defective)} defective parts pass{_shown(wrong, 'lowest')}."
    sections = [Section("Misses", remark, _show(wrong, evaluation, inspector))]
    if not wrong:
        remark = "No defective part passes. These have the lowest scores."
        shown = _show(defective, evaluation, inspector)
        sections.append(Section("Defective parts with the lowest scores", remark, shown))
    return sections


def _shown(images: Sequence[ImageResult], end: str) -> str:
    count = f" (the first {SHOWN_EACH} are shown)" if len(images) > SHOWN_EACH else ""
    return f"; {end} score first{count}" if images else ""


def _show(images: Sequence[ImageResult], evaluation: Evaluation, inspector: Inspector) -> list[Shown]:
    criteria = evaluation.recipe.criteria
    shown = []
    for image in images[:SHOWN_EACH]:
        rgb, overlay, _ = draw_overlay(inspector, image.path, image.mask, criteria)
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
        The image and its overlay, uint8 `[h, w, 3]`, with a longer side of at most `IMAGE_SIDE` pixels, and the
        inspection.
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
    return _data_url(render(gray, ramp, HeatmapScale(low=0.0, high=1.0)))


def shrunk(rgb: UInt8Images) -> UInt8Images:
    """Shrink an image, uint8 `[H, W, 3]`, to a longer side of at most `IMAGE_SIDE` pixels."""
    factor = IMAGE_SIDE / max(rgb.shape[:2])
    if factor >= 1:
        return rgb
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _data_url(rgb: UInt8Images) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode(shrunk(rgb), "image/jpeg", quality=85)).decode()
