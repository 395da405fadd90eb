"""Where the prototypes of memory banks come from: reduced copies of the training images, for the bundle."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import nn

from service.bundle.manifest import Explanation
from service.bundle.origins import (
    MAX_INDEX_BYTES,
    MAX_ORIGINS_BYTES,
    OriginImage,
    OriginIndex,
    Origins,
    OriginView,
    Places,
)
from service.inspection.capture_groups import date_of
from service.inspection.heatmap import encode
from service.inspection.image_files import path_text
from training.dataset import UInt8Images
from training.memory_bank import MemoryBank
from training.places import ViewPlace

_log = logging.getLogger(__name__)
# Longest side and JPEG quality of the copies, the best first. The first pair with which all copies fit is used.
SIDES, QUALITIES = (384, 320, 256, 192, 160, 128, 96, 64), (85, 70, 50)
_SAMPLE = 16  # views that are encoded to choose a size
_RESERVED_BYTES = 4096  # headers of the arrays
_EXIF_IFD, _EXIF_TAKEN = 0x8769, 0x9003
_MAX_NAME = 1024


def collect_origins(
    method: nn.Module,
    explanation: Explanation | None,
    views: UInt8Images,
    places: Sequence[ViewPlace],
    files: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    root: Path,
    *,
    is_augmented: bool = False,
    limit_bytes: int = MAX_ORIGINS_BYTES,
) -> Origins | None:
    """Collect the views that prototypes come from, reduced so far that the file of the bundle stays small.

    Args:
        method: The trained method.
        explanation: The memory banks in its graph.
        views: uint8 `[V, H, W, 3]`, RGB, what the memory banks were collected from, in this order.
        places: The places of the images that were prepared, N. View v shows place v modulo N.
        files: The image files.
        sizes: Width and height of each file's image, in pixels.
        root: Names of files are relative to this folder.
        is_augmented: Whether views were augmented.
        limit_bytes: Most bytes of the file.

    Returns:
        The origins; None if the method has no memory bank, or one that does not state the origins of its prototypes.
    """
    found = {name.rpartition(".")[2]: bank for name, bank in method.named_modules() if isinstance(bank, MemoryBank)}
    banks = [] if explanation is None else explanation.banks
    if not banks or any(len(found[bank.name].origins) != bank.prototypes for bank in banks):
        return None
    origins = {bank.name: found[bank.name].origins.numpy() for bank in banks}
    used, counts = np.unique(np.concatenate([one[:, 0] for one in origins.values()]), return_counts=True)
    shown = [places[view % len(places)] for view in used]
    owners = {image: number for number, image in enumerate(sorted({place.image for place in shown}))}
    index = OriginIndex(
        images=[describe_file(files[image], root, sizes[image]) for image in owners],
        views=[
            OriginView(image=owners[place.image], box=place.box, augmented=is_augmented, start=0, bytes=0)
            for place in shown
        ],
    )
    tables: dict[str, Places] = {}
    for name, table in origins.items():
        tables[name] = np.column_stack([np.searchsorted(used, table[:, 0]), table[:, 1:]]).astype(np.int32)
    empty = Origins(index, b"", tables)
    # Positions in the index are zero so far; they need a few bytes more for each view.
    taken = len(empty.to_bytes()) + 16 * len(used) + _RESERVED_BYTES
    if taken > limit_bytes or len(index.model_dump_json()) + 16 * len(used) > MAX_INDEX_BYTES:
        _log.warning("The origins of the prototypes are not stored: their list alone takes %d bytes.", taken)
        return None
    shapes = [_shape(place, sizes[place.image]) for place in shown]
    jpegs = _fitting([views[view] for view in used], shapes, counts.tolist(), limit_bytes - taken)
    starts = itertools.accumulate((len(jpeg) for jpeg in jpegs), initial=0)
    stored = [
        view.model_copy(update={"start": start, "bytes": len(jpeg)})
        for view, start, jpeg in zip(index.views, starts, jpegs, strict=False)
    ]
    return replace(empty, index=index.model_copy(update={"views": stored}), jpegs=b"".join(jpegs))


def describe_file(path: Path, root: Path, size: tuple[int, int]) -> OriginImage:
    """Describe an image file: name, hash, size, and the day on which it was taken if file or name state it.

    Args:
        path: The image file.
        root: The name is relative to this folder.
        size: Width and height of its image in pixels.
    """
    relative = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    captured_on = _capture_day(path)
    dated_by: Literal["file", "name"] | None = None if captured_on is None else "file"
    if captured_on is None and (stated := date_of(relative)) and (captured_on := _parse_day(stated)):
        dated_by = "name"
    return OriginImage(
        name=path_text(relative)[-_MAX_NAME:],
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        width=size[0],
        height=size[1],
        captured_on=captured_on,
        dated_by=dated_by,
    )


def _capture_day(path: Path) -> date | None:
    """Return the day in the EXIF data of a file, `DateTimeOriginal`; None without one."""
    try:
        with Image.open(path) as image:
            stated = image.getexif().get_ifd(_EXIF_IFD).get(_EXIF_TAKEN)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, KeyError, TypeError):
        return None  # the decoder of training accepts the file; its metadata may be damaged
    return _parse_day(str(stated)[:10].replace(":", "-")) if stated else None


def _parse_day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:  # for example 0000-00-00 of a camera without a clock
        return None


def _shape(place: ViewPlace, size: tuple[int, int]) -> tuple[float, float]:
    """Return width and height of a view in pixels of its image, without the distortion of the network's input."""
    return place.box[2] * size[0], place.box[3] * size[1]


def _fitting(
    views: Sequence[UInt8Images], shapes: Sequence[tuple[float, float]], counts: Sequence[int], limit_bytes: int
) -> list[bytes]:
    """Return the views as JPEG files, as large and as good as they fit together.

    If not even the smallest ones fit, the views with the fewest prototypes are left out: their files are empty.

    Args:
        views: uint8 `[H, W, 3]` each, RGB.
        shapes: Width and height that each of them has without distortion; only the ratio matters.
        counts: Number of prototypes in each of them.
        limit_bytes: Most bytes of all files.
    """
    jpegs: list[bytes] = []
    pairs = list(zip(views, shapes, strict=True))
    # A sample shows which sizes are too large, so that hundreds of views are not encoded two dozen times.
    sample = pairs[:: max(1, len(pairs) // _SAMPLE)]
    for side, quality in itertools.product(SIDES, QUALITIES):
        is_last = (side, quality) == (SIDES[-1], QUALITIES[-1])
        expected = sum(len(_reduced(*pair, side, quality)) for pair in sample) * len(pairs) / len(sample)
        if expected > limit_bytes * 1.1 and not is_last:
            continue
        jpegs = [_reduced(*pair, side, quality) for pair in pairs]
        if sum(map(len, jpegs)) <= limit_bytes:
            return jpegs
    left = limit_bytes
    kept = dict[int, bytes]()
    for number in np.argsort(-np.asarray(counts), kind="stable"):
        if len(jpegs[number]) <= left:
            kept[int(number)] = jpegs[number]
            left -= len(jpegs[number])
    _log.warning("Only %d of %d views that contain prototypes are stored in the bundle.", len(kept), len(views))
    return [kept.get(number, b"") for number in range(len(views))]


def _reduced(view: UInt8Images, shape: tuple[float, float], side: int, quality: int) -> bytes:
    width, height = shape
    scale = min(side, max(view.shape[:2])) / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return encode(np.asarray(cv2.resize(view, size, interpolation=cv2.INTER_AREA), np.uint8), "image/jpeg", quality)
