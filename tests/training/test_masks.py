"""Masks are checked, not thresholded: everything that is not background counts, or the mask is refused."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.inspection.decoding.decoder import ImageLimits
from training import errors
from training.image_limits import use_image_limits
from training.masks import read_mask

WH = (80, 60)


def mask(
    marks: Sequence[tuple[tuple[slice, slice], Any]], channels: int = 1, background: Any = 0, dtype: Any = np.uint8
) -> Any:
    array = np.full((60, 80, channels), background, dtype)
    for place, value in marks:
        array[place] = value
    return array.squeeze()


FIRST, SECOND = (slice(5, 15), slice(10, 30)), (slice(20, 40), slice(10, 40))  # 200 and 600 pixels


def write(path: Path, array: NDArray[Any]) -> Path:
    colour = array[..., [2, 1, 0, *range(3, array.shape[2])]] if array.ndim == 3 else array
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(colour))[1].tobytes())
    return path


@pytest.mark.parametrize(
    "array",
    [
        mask([(FIRST, 255), (SECOND, 255)]),
        mask([(FIRST, 64), (SECOND, 255)]),
        mask([(FIRST, 1), (SECOND, 1)]),
        mask([(FIRST, 1), (SECOND, 2)]),
        mask([(FIRST, 1), (SECOND, 65535)], dtype=np.uint16),
        mask([(FIRST, 300), (SECOND, 300)], dtype=np.uint16),
        mask([(FIRST, (255, 0, 0)), (SECOND, (255, 255, 0))], 3),
        mask([(FIRST, (0, 0, 1)), (SECOND, (0, 90, 0))], 3),
        mask([(FIRST, (255, 255, 255, 255)), (SECOND, (255, 255, 255, 255))], 4, (255, 255, 255, 0)),
        mask([(FIRST, (0, 0, 0, 255)), (SECOND, (0, 0, 0, 40))], 4, (0, 0, 0, 0)),
        mask([(FIRST, (255, 0, 0, 255)), (SECOND, (0, 255, 0, 255))], 4, (0, 0, 0, 255)),
        mask([(FIRST, (255, 0, 0, 255)), (SECOND, (0, 255, 0, 255))], 4, (0, 0, 0, 0)),
        mask([(FIRST, (255, 0, 0, 128)), (SECOND, (0, 255, 0, 255))], 4, (255, 255, 255, 0)),
    ],
)
def test_everything_that_is_not_background_counts(tmp_path: Path, array: NDArray[Any]) -> None:
    marked = read_mask(write(tmp_path / "mask.png", array), WH)
    assert marked.sum() == 800
    assert marked[FIRST].all()
    assert marked[SECOND].all()


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_other_pixel_formats_count_alike(tmp_path: Path, mode: str) -> None:
    array = mask([(FIRST, 255), (SECOND, 255)])
    image = Image.fromarray(array)
    if mode == "P":
        image = Image.fromarray((array > 0).astype(np.uint8), "L")
        image.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    elif mode == "1":
        image = image.convert("1")
    for suffix in ("png", "bmp", "tif"):
        path = tmp_path / f"mask.{suffix}"
        image.save(path)
        assert read_mask(path, WH).sum() == 800


NOISE = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (cv2.GaussianBlur(mask([(SECOND, 255)]), (31, 31), 9), "different values"),
        (NOISE, "different values"),
        (mask([(FIRST, 0)], background=255), "background were not black"),
        (mask([], background=255), "background were not black"),
        (mask([(FIRST, (255, 0, 0))], 3, (255, 255, 255)), "background were not black"),
        (mask([(FIRST, (255, 0, 0, 255)), (SECOND, (0, 0, 0, 0))], 4, (0, 0, 0, 255)), "only one can be background"),
    ],
)
def test_unclear_mask_is_refused_with_what_is_expected(tmp_path: Path, array: NDArray[Any], reason: str) -> None:
    with pytest.raises(errors.UnclearMask, match=reason) as caught:
        read_mask(write(tmp_path / "mask.png", array), WH)
    assert "background is 0 (black) or transparent" in caught.value.detail


def test_large_defect_that_leaves_a_corner_free_counts(tmp_path: Path) -> None:
    marked = read_mask(write(tmp_path / "mask.png", mask([((slice(1, 60), slice(0, 80)), 255)])), WH)
    assert marked.mean() > 0.9


def test_lossy_formats_are_refused(tmp_path: Path) -> None:
    for kind in ("JPEG", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(mask([(SECOND, 255)])).convert("RGB").save(buffer, kind)
        (tmp_path / "mask.png").write_bytes(buffer.getvalue())
        with pytest.raises(errors.UnclearMask, match="compression"):
            read_mask(tmp_path / "mask.png", WH)


def test_empty_damaged_and_missing_masks_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "mask.png", mask([]))
    with pytest.raises(errors.EmptyMask, match="marks no pixel"):
        read_mask(path, WH)
    with pytest.raises(errors.MaskMismatch, match="80x60, its image is 8x1"):
        read_mask(path, (8, 1))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(errors.UnreadableImage, match=r"mask\.png"):
        read_mask(path, WH)
    with pytest.raises(errors.UnreadableImage, match=r"gone\.png"):
        read_mask(tmp_path / "gone.png", WH)
    assert not read_mask(None, WH).any()


def test_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / os.fsdecode(b"tr\xfcb_mask.png"), mask([(SECOND, 255)]))
    assert read_mask(path, WH).sum() == 600


def test_masks_are_read_within_the_limits_of_images(tmp_path: Path) -> None:
    path = write(tmp_path / "m.png", mask([(FIRST, 255)]))
    with use_image_limits(ImageLimits(max_pixels=100)), pytest.raises(errors.UnreadableImage, match="100"):
        read_mask(path, WH)
    assert read_mask(path, WH).sum() == 200
