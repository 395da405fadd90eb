"""The contact sheet of an image check: one HTML file with the most distant images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from service.inspection.image_files import path_text
from training.dataset import UInt8Images, read_rgb
from training.files import write_text
from training.html_pages import Style, data_url, shrunk, template_environment
from training.image_check.check import CheckedImage, ImageCheck, relative_name

MIN_SHOWN, MAX_SHOWN = 24, 120  # images on a sheet; all suspected ones up to the larger number
SHOWN_SHARE, SHOWN_MORE = 0.02, 3  # of all images, and this many: shown even if none is suspected
MARK = 1 / 8  # side of the marked square, in sides of the image
MARK_RGB = (230, 0, 70)


@dataclass(frozen=True)
class SheetImage:
    """An image of the sheet with its mark, as a data URL."""

    name: str
    rank: int
    distance: float
    suspected: bool
    image: str


def write_sheet(check: ImageCheck, root: Path, path: Path, progress: Callable[[int], None] | None = None) -> None:
    """Write the contact sheet, atomically: the suspected images, and the next ones for comparison.

    Args:
        check: The result of `check_images`.
        root: The folder that names are shown relative to.
        path: The HTML file to write; its folder must exist.
        progress: Called with the number of images drawn so far.

    Raises:
        UnreadableImage: An image cannot be read any more.
        OSError: The file cannot be written.
    """
    chosen = check.images[: shown_images(check)]
    shown = []
    for number, image in enumerate(chosen, 1):
        marked = data_url(_marked(image))
        shown.append(SheetImage(relative_name(image.path, root), number, image.distance, image.suspected, marked))
        if progress is not None:
            progress(number)
    style = Style.load()
    page = (
        template_environment()
        .get_template("image_check.html.j2")
        .render(
            root=path_text(root),
            check=check,
            shown=shown,
            unshown=max(0, len(check.suspected) - len(chosen)),
            style=style.sheet,
            style_hash=style.digest,
        )
    )
    write_text(path, page)


def shown_images(check: ImageCheck) -> int:
    """Return the number of images on the sheet."""
    usual = math.ceil(SHOWN_SHARE * len(check.images)) + SHOWN_MORE
    return min(len(check.images), MAX_SHOWN, max(MIN_SHOWN, usual, len(check.suspected)))


def _marked(image: CheckedImage) -> UInt8Images:
    """Return the image, uint8 `[h, w, 3]`, with a square around its most distant cell."""
    rgb = np.ascontiguousarray(shrunk(read_rgb(image.path)))
    height, width = rgb.shape[:2]
    row, column = image.place
    first = (round((column - MARK / 2) * width), round((row - MARK / 2) * height))
    last = (round((column + MARK / 2) * width), round((row + MARK / 2) * height))
    cv2.rectangle(rgb, first, last, (255, 255, 255), 3)
    cv2.rectangle(rgb, first, last, MARK_RGB, 1)
    return rgb
