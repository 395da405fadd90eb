"""The images of a job as files in a folder that the training pipeline reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from plumbline_client.schemas.training import TrainingImageRecord
from service.inspection.decoding.formats import SUFFIXES

_UNSAFE = re.compile(r"[^\w. -]")
_MAX_PART_BYTES = 200  # file systems permit 255; number, suffix and the name of the scratch file need some of them


def image_paths(folder: Path, images: Sequence[TrainingImageRecord]) -> list[Path]:
    """Return the paths of images. Their names are kept, because folders, dates and prefixes are their capture groups.

    Only an image whose path an earlier one has already gets its number, so the same images have the same paths again.

    Args:
        folder: The folder of all images.
        images: The images in the order of their numbers. Their names come from outside: nothing in them leaves the
            folder.
    """
    taken: set[str] = set()
    paths = []
    for image in images:
        parts = [_safe(part) for part in image.name.replace("\\", "/").split("/")]
        *parents, name = [part for part in parts if part] or ["image"]
        stem, suffix = name.rpartition(".")[0] or name, SUFFIXES[image.media_type]
        path = PurePosixPath(*parents, stem + suffix)
        while str(path).casefold() in taken:  # some file systems do not distinguish upper and lower case
            stem += f"-{image.number}"
            path = path.with_name(stem + suffix)
        taken.add(str(path).casefold())
        paths.append(folder / path)
    return paths


def is_complete(path: Path, image: TrainingImageRecord) -> bool:
    """Return whether a file holds the image already, from an earlier claim of the job."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == image.sha256


def write_image(path: Path, data: bytes) -> None:
    """Write an image that is complete or absent.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_bytes(data)
    scratch.replace(path)


def _safe(part: str) -> str:
    """Return a part of a name without what is special in paths; empty for one that is not a name."""
    return _UNSAFE.sub("_", part).encode()[:_MAX_PART_BYTES].decode(errors="ignore").strip(". ")
