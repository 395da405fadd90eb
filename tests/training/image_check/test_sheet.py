"""The contact sheet: complete, self-contained, and safe with any file name."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.training.report.hostile_plates import FILE
from tests.training.report.parsed_page import Page
from tests.training.small_product import plate
from training.image_check.check import CheckedImage, ImageCheck
from training.image_check.sheet import MARK_RGB, MAX_SHOWN, MIN_SHOWN, shown_images, write_sheet


def checked(root: Path, names: list[str], suspected: int) -> ImageCheck:
    images = []
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", plate(number)[0])[1].tobytes())
        images.append(CheckedImage(path, 1 / (number + 1), (0.25, 0.75), number < suspected))
    return ImageCheck(tuple(images), limit=0.4)


def test_sheet_shows_the_most_distant_images_with_their_names(tmp_path: Path) -> None:
    check = checked(tmp_path / "good", [f"lot/{number:02d}.png" for number in range(30)], suspected=2)
    seen: list[int] = []
    write_sheet(check, tmp_path / "good", tmp_path / "sheet.html", seen.append)
    text = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert text.count("<figure>") == MIN_SHOWN == seen[-1]
    assert text.count('<strong class="fail">suspected</strong>') == 2
    assert text.index("lot/00.png") < text.index("lot/01.png") < text.index("lot/23.png")
    assert "lot/24.png" not in text
    assert "2 suspected" in text


def test_sheet_needs_no_other_file_and_runs_no_script(tmp_path: Path) -> None:
    write_sheet(checked(tmp_path, [FILE, "b.png"], 1), tmp_path, tmp_path / "sheet.html")
    text = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "main"),
        *("h1", "p", "code", "strong", "div", "figure", "figcaption", "img"),
    }
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 2
    assert all(source is not None and source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "default-src 'none'" in text
    assert "\u202e" not in text


def test_mark_is_at_the_most_distant_place(tmp_path: Path) -> None:
    write_sheet(checked(tmp_path, ["a.png"], 0), tmp_path, tmp_path / "sheet.html")
    text = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    encoded = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', text)[0]
    image = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    red = np.argwhere(np.abs(image.astype(int) - MARK_RGB).sum(2) < 150)
    centre = (red.min(0) + red.max(0)) / 2 / image.shape[:2]
    assert centre == pytest.approx([0.25, 0.75], abs=0.05)
    assert "No image is suspected" in text


def test_sheet_shows_a_share_of_many_images_even_if_none_is_suspected() -> None:
    images = tuple(CheckedImage(Path(f"{number}.png"), 1.0, (0.5, 0.5), suspected=False) for number in range(3000))
    assert shown_images(ImageCheck(images, limit=2.0)) == 63
    assert shown_images(ImageCheck(images[:100], limit=2.0)) == MIN_SHOWN
    assert shown_images(ImageCheck(images[:5], limit=2.0)) == 5


def test_sheet_is_bounded_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    check = checked(tmp_path, [f"{number:03d}.png" for number in range(MAX_SHOWN + 7)], suspected=MAX_SHOWN + 5)
    assert shown_images(check) == MAX_SHOWN
    write_sheet(check, tmp_path, tmp_path / "sheet.html")
    assert "5 more suspected images are not shown" in (tmp_path / "sheet.html").read_text(encoding="utf-8")
