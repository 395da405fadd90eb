"""The images of a job as files in a folder that the training pipeline reads."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from plumbline_client.schemas.training import TrainingImageRecord
from service.inspection.decoding.formats import SUFFIXES

_UNSAFE = re.compile(r"[^\w. -]")
_MAX_PART = 100


def image_path(folder: Path, image: TrainingImageRecord) -> Path:
    """Return the path of an image. Folders and dates in its name are kept, because they are its capture group.

    Args:
        folder: The folder of all images.
        image: The image. Its name comes from outside: nothing in it leaves the folder, and the number makes the path
            unique.
    """
    parts = [_safe(part) for part in image.name.replace("\\", "/").split("/")]
    *parents, name = [part for part in parts if part] or ["image"]
    stem = name.rpartition(".")[0] or name
    return folder.joinpath(*parents, f"{stem}-{image.number}{SUFFIXES[image.media_type]}")


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
    return _UNSAFE.sub("_", part).strip(". ")[:_MAX_PART]
