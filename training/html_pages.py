"""Common parts of the HTML pages that training writes: self-contained files without scripts."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from service.inspection.heatmap import encode
from service.inspection.image_files import console_text
from training.dataset import UInt8Images

IMAGE_SIDE = 320  # longer side of an embedded image, pixels
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Style:
    """The style sheet of a page.

    Attributes:
        sheet: The CSS rules.
        digest: Their SHA-256 in base64, which the page's content security policy names.
    """

    sheet: Markup
    digest: str

    @classmethod
    def load(cls) -> Style:
        """Read the style sheet of the reports."""
        sheet = (files("training") / "templates" / "report.css").read_text(encoding="utf-8")
        return cls(Markup(sheet), base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode())


def template_environment() -> Environment:
    """Return the environment of the templates; every value is escaped, and a missing one is an error."""
    return Environment(
        loader=PackageLoader("training"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )


def shrunk(rgb: UInt8Images) -> UInt8Images:
    """Shrink an image, uint8 `[H, W, 3]`, to a longer side of at most `IMAGE_SIDE` pixels."""
    factor = IMAGE_SIDE / max(rgb.shape[:2])
    if factor >= 1:
        return rgb
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def data_url(rgb: UInt8Images) -> str:
    """Return an image, uint8 `[H, W, 3]`, as the data URL of a JPEG with a longer side of at most `IMAGE_SIDE`."""
    data = encode(shrunk(rgb), "image/jpeg", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _printable(value: Any) -> Any:
    """Write control characters and such that change the direction of text as escapes, in whatever the page shows."""
    return value if isinstance(value, Markup) else console_text(str(value))
