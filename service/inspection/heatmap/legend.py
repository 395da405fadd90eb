"""The legend of a heatmap: decision, score, thresholds and colour scale, in a panel below the image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from service.bundle.arrays import UInt8Image
from service.inspection.heatmap.colormap import DEFAULT_COLORMAP, STEPS, lookup_table
from service.inspection.heatmap.scale import FULL_SCALE, HeatmapScale

_BACKGROUND, _TEXT, _FADED = (24, 24, 24), (255, 255, 255), (190, 190, 190)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Sizes for a panel of this width, in pixels; they grow with the width of the panel.
_DESIGN_WIDTH = 640
_NARROWEST = 320
_MARGIN, _LINE, _BAR = 12, 28, 16
_LARGEST_FACTOR = 8
# The font of OpenCV has ASCII characters only.
_SUBSTITUTES = str.maketrans({"×": "x", "≤": "<=", "≥": ">=", "–": "-", "°": " deg"})


@dataclass(frozen=True)
class Legend:
    """What a legend states about an inspection.

    Attributes:
        decision: pass, review, fail or invalid.
        fail_threshold: Scores above it fail.
        review_threshold: Scores above it need review.
        score: Image score; None for an invalid image.
        p_value: p-value of the score; None for an invalid image.
        by_score: The decision without region filters, if it differs.
        reasons: Why the quality check rejected the image, as sentences.
        scale: Scale of the heatmap; None for an invalid image, which has no colours.
        colormap: One of `COLORMAPS`.
    """

    decision: str
    fail_threshold: float
    review_threshold: float
    score: float | None = None
    p_value: float | None = None
    by_score: str | None = None
    reasons: tuple[str, ...] = ()
    scale: HeatmapScale | None = None
    colormap: str = DEFAULT_COLORMAP

    def lines(self) -> list[str]:
        """Return the text of the legend: the decision, then its grounds. ASCII only, for the font of OpenCV."""
        verdict = self.decision.upper()
        if self.by_score is not None and self.by_score != self.decision:
            verdict += f" ({self.by_score} without region filters)"
        if self.score is None:
            return [verdict, *(_ascii(reason) for reason in self.reasons or ("rejected by the quality check",))]
        p_value = "" if self.p_value is None else f", p-value {self.p_value:.3g}"
        return [
            verdict,
            f"score {self.score:.4g}{p_value}",
            f"review above {self.review_threshold:.4g}, fail above {self.fail_threshold:.4g}",
        ]


def draw_legend(image: UInt8Image, legend: Legend) -> UInt8Image:
    """Add a legend below an image. Nothing of the image is covered.

    Args:
        image: uint8 [H, W, 3], RGB, the heatmap; for an invalid image, the image itself.
        legend: The legend.

    Returns:
        uint8 [H + h, max(W, 320), 3], RGB. The image is in the upper left corner. The height `h` of the legend depends
        on the width.
    """
    height, width = image.shape[:2]
    panel_width = max(width, _NARROWEST)
    factor = min(max(panel_width / _DESIGN_WIDTH, 0.6), _LARGEST_FACTOR)
    panel = _panel(legend, panel_width, factor)
    result = np.full((height + panel.shape[0], panel_width, 3), _BACKGROUND, np.uint8)
    result[:height, :width] = image
    result[height:] = panel
    return result


def _panel(legend: Legend, width: int, factor: float) -> UInt8Image:
    margin, line, bar = (round(size * factor) for size in (_MARGIN, _LINE, _BAR))
    sizes = (factor * 0.85, factor * 0.6)
    verdict, *grounds = legend.lines()
    # Sentences are wrapped; figures stay on one line, which `_write` makes smaller if necessary.
    if legend.score is None:
        grounds = [part for text in grounds for part in _wrapped(text, sizes[1], width - 2 * margin)]
    texts = [verdict, *grounds]
    height = 2 * margin + line * len(texts) + (0 if legend.scale is None else margin + bar + 2 * line)
    panel: UInt8Image = np.full((height, width, 3), _BACKGROUND, np.uint8)
    baseline = margin
    for number, text in enumerate(texts):
        baseline += line
        largest = sizes[min(number, 1)]
        _write(panel, text, (margin, baseline - line // 3), largest, _TEXT, width - 2 * margin, bold=number == 0)
    if legend.scale is not None:
        _scale_bar(panel, legend, legend.scale, baseline + margin, margin, factor)
    return panel


def _scale_bar(panel: UInt8Image, legend: Legend, scale: HeatmapScale, top: int, margin: int, factor: float) -> None:
    """Draw the colours from 0 to 1.5, a mark at 1, and what the positions mean, in place."""
    line, bar = round(_LINE * factor), round(_BAR * factor)
    thickness = max(1, round(factor))
    length = panel.shape[1] - 2 * margin
    steps = np.linspace(0, STEPS - 1, length).round().astype(np.intp)
    panel[top : top + bar, margin : margin + length] = lookup_table(legend.colormap)[steps]
    middle = margin + round(length / FULL_SCALE)
    for x in (margin, middle):
        cv2.line(panel, (x, top - thickness), (x, top + bar + 3 * thickness), _TEXT, thickness)
    # The recipe may set other ends of the scale.
    at_one = "fail threshold" if scale.high == legend.fail_threshold else "end set by the recipe"
    space = length // 2 - margin
    size = 0.5 * factor
    _write(panel, f"0 = {scale.low:.4g}", (margin, top + bar + line * 2 // 3), size, _TEXT, space)
    _write(panel, "median of good maps", (margin, top + bar + line * 4 // 3), size, _FADED, space)
    for row, (text, colour) in enumerate(((f"1 = {scale.high:.4g}", _TEXT), (at_one, _FADED))):
        shown = _text_width(text, min(size, _fitting(text, size, space)))
        _write(panel, text, (middle - shown // 2, top + bar + line * (2 + 2 * row) // 3), size, colour, space)


def _write(
    panel: UInt8Image, text: str, at: tuple[int, int], size: float, colour: tuple[int, int, int], space: int,
    *, bold: bool = False,
) -> None:  # fmt: skip
    """Write a line of text, smaller where it would be longer than `space` pixels."""
    size = _fitting(text, size, space)
    cv2.putText(panel, text, at, _FONT, size, colour, max(1, round(size * (2.4 if bold else 1.5))), cv2.LINE_AA)


def _wrapped(text: str, size: float, space: int) -> list[str]:
    """Return a text as lines that are at most `space` pixels long, except for single words that are longer."""
    lines: list[str] = []
    for word in text.split():
        if lines and _text_width(f"{lines[-1]} {word}", size) <= space:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _ascii(text: str) -> str:
    return text.translate(_SUBSTITUTES).encode("ascii", "replace").decode("ascii")


def _fitting(text: str, size: float, space: int) -> float:
    return size * min(1.0, space / max(1, _text_width(text, size)))


def _text_width(text: str, size: float) -> int:
    width: int = cv2.getTextSize(text, _FONT, size, max(1, round(size * 2.4)))[0][0]
    return width
