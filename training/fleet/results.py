"""The results of a fleet's products, each in a file of its product's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from service.bundle.manifest import MANIFEST
from service.inspection.image_files import find_image_files
from training.files import write_text

if TYPE_CHECKING:  # importing the pipeline imports torch
    from training.pipeline import Request

RESULT = "result.json"


@dataclass(frozen=True)
class Result:
    """How the training of a product ended.

    Attributes:
        ended_at: When, seconds since 1970.
        error: Why there is no bundle; None if there is one.
        version: Version of the bundle; None without one.
        seconds: Wall time until the bundle was written, or until the failure; of the last start if it was continued.
        cpu_seconds: Processor time of the same; None if the process was ended.
        peak_bytes: Largest resident memory of the process; None if the process was ended.
        images: Number of images that were trained on.
        held_out: Number of held-out images, which certify the thresholds.
        weak: Why the network is not usable, if the bundle was allowed to be weak.
        figures: Figures in 0..1 by name: those of `training.evaluate` if there are test images, and `sanity_images` and
            `sanity_pixels`, the AUROC on synthetic anomalies.
    """

    ended_at: float
    error: str | None = None
    version: str | None = None
    seconds: float = 0.0
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    images: int = 0
    held_out: int = 0
    weak: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


_RESULT: TypeAdapter[Result] = TypeAdapter(Result)


def identify(request: Request) -> dict[str, Any]:
    """Return what a stored result must have in common with a request to be its result.

    Images are compared by names, sizes and times of modification: thousands of folders are compared in seconds.

    Raises:
        OSError: The folder of the images cannot be read.
    """
    return {
        "settings": request.config.identity(),
        "held_out": request.held_out_fraction,
        "groups": request.groups,
        "allow_weak": request.allow_weak,
        "evaluate": request.evaluate,
        "files": _signature(request.data),
    }


def read_result(folder: Path, identity: Mapping[str, Any]) -> Result | None:
    """Return the stored result of a product; None if there is none of the same images and settings.

    A file that is damaged counts as no result.
    """
    try:
        stored = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return _RESULT.validate_python(stored["result"]) if stored["identity"] == identity else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, ValidationError):
        return None


def write_result(folder: Path, identity: Mapping[str, Any], result: Result) -> None:
    """Store the result of a product, atomically."""
    write_text(folder / RESULT, json.dumps({"identity": identity, "result": asdict(result)}, indent=2) + "\n")


def report_file(folder: Path, version: str) -> Path:
    """Return the path of the report of a bundle in the product's folder."""
    return folder / f"report-{version}.html"


def bundle_of(request: Request, result: Result | None) -> Path | None:
    """Return the folder of a result's bundle; None if it has none or the bundle was removed."""
    if result is None or result.version is None:
        return None
    path = request.models / request.product / result.version
    return path if (path / MANIFEST).is_file() else None


def is_done(request: Request, folder: Path, result: Result | None) -> bool:
    """Return whether nothing is left to do: bundle and report exist."""
    if result is None or bundle_of(request, result) is None:
        return False
    assert result.version is not None
    return report_file(folder, result.version).is_file()


def _signature(data: Path) -> str:
    digest = hashlib.sha256()
    for path in find_image_files(data):
        found = path.stat()
        name = path.relative_to(data).as_posix()
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
