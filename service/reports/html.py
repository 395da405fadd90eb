"""The shift report as one self-contained HTML page without scripts."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from service.bundle.arrays import UInt8Image
from service.inspection.heatmap import FULL_SCALE, HeatmapScale, encode, render
from service.languages import Texts, catalogue
from service.reports import plots
from service.schemas.report import DefectMap, ReportLanguage
from service.serving.defect_map import IMAGE_SIDE
from service.serving.reports import IllustratedReport

CATALOGUES = Path(__file__).parent / "locale"
_COLORMAP = "cividis"
_SCALE_WH = (320, 16)
_GRAY = 200
_LONGEST_VALUE = 80


def render_html(report: IllustratedReport, language: ReportLanguage) -> str:
    """Return the HTML page of a report.

    Args:
        report: The report.
        language: Language of the page.
    """
    content = report.content
    texts = Texts(language, ZoneInfo(content.time_zone), CATALOGUES)
    return (
        _environment(language)
        .get_template("report.html.j2")
        .render(
            texts=texts,
            report=content,
            csp=content_security_policy(),
            style=Markup(_style()),
            periods=plots.period_chart(content.periods),
            charts=[(scores, plots.score_chart(scores)) for scores in content.scores],
            width=plots.WIDTH,
            height=plots.HEIGHT,
            defect_image=None if content.defect_map is None else _data_url(_draw(content.defect_map, report.part)),
            colour_scale=_data_url(_colour_scale()),
            scale_width=_SCALE_WH[0],
            scale_height=_SCALE_WH[1],
        )
    )


@cache
def content_security_policy() -> str:
    """Return the Content-Security-Policy of the page: its own style sheet and embedded images, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def _environment(language: ReportLanguage) -> Environment:
    environment = Environment(
        loader=PackageLoader("service.reports"),
        autoescape=True,
        extensions=["jinja2.ext.i18n"],
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    translations = catalogue(language, CATALOGUES)
    environment.install_gettext_translations(translations, newstyle=True)  # type: ignore[attr-defined]
    environment.filters["shown"] = _shown
    return environment


@cache
def _style() -> str:
    return (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")


def _shown(value: Any) -> str:
    """Return a value of a recipe as JSON, shortened if it is long, such as a polygon."""
    text = "–" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _draw(defects: DefectMap, part: UInt8Image | None) -> UInt8Image:
    """Draw the map over the image of a good part in gray, or over a plain area."""
    if part is None:
        factor = IMAGE_SIDE / max(defects.image_width, defects.image_height)
        shape = max(1, round(defects.image_height * factor)), max(1, round(defects.image_width * factor))
        gray: UInt8Image = np.full((*shape, 3), _GRAY, np.uint8)
    else:
        gray = np.asarray(cv2.cvtColor(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    counts = np.array(defects.counts, np.float32)
    return render(gray, counts, HeatmapScale(0.0, float(counts.max()) / FULL_SCALE), opacity=0.75, colormap=_COLORMAP)


def _colour_scale() -> UInt8Image:
    """Draw the colours from no inspection to the most, by the function that draws the map."""
    width, height = _SCALE_WH
    ramp = np.tile(np.linspace(0, FULL_SCALE, width, dtype=np.float32), (height, 1))
    gray: UInt8Image = np.full((height, width, 3), _GRAY, np.uint8)
    return render(gray, ramp, HeatmapScale(0.0, 1.0), opacity=0.75, colormap=_COLORMAP)


def _data_url(rgb: UInt8Image) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode(rgb, "image/jpeg", quality=85)).decode()
