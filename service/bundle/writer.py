"""Write bundles into the model repository: completely or not at all, and verified before they become visible."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from service.bundle.bundle import Bundle
from service.bundle.card import CalibrationCard
from service.bundle.errors import BundleInvalid, BundleOfOtherProduct
from service.bundle.golden import GoldenSample
from service.bundle.images import ImageHashes
from service.bundle.manifest import CARD, IMAGES, MANIFEST, MODEL, ORIGINS, FileEntry, Manifest, ManifestDraft
from service.bundle.origins import Origins

# Age in seconds at which a staging folder is certainly not in use: no writer takes that long.
STALE_S = 24 * 3600
STAGING = ".staging-"
"""How the names of folders begin in which bundles are put together, beside the bundles of their product."""


def write_bundle(
    models: Path,
    *,
    draft: ManifestDraft,
    model: bytes,
    card: CalibrationCard,
    golden: Sequence[GoldenSample],
    images: ImageHashes | None = None,
    origins: Origins | None = None,
) -> Bundle:
    """Write a bundle into the model repository, completely or not at all, and load it back.

    Args:
        models: The model repository; the bundle becomes `models/<product>/<version>/`.
        draft: The manifest without hashes.
        model: The ONNX graph. Its `metadata_props` must contain `graph_metadata(draft)`.
        card: The calibration card, computed with this graph.
        golden: 1 to 100 samples.
        images: The images that the bundle was made from; threshold proposals refuse them.
        origins: Where the prototypes of the memory banks in `draft.explanation` come from.

    Raises:
        BundleSchema, ExternalData: The bundle would not be served; nothing was written.
    """
    contents = {MODEL: model, CARD: _canonical_json(card)}
    if images is not None:
        contents[IMAGES] = _canonical_json(images)
    if origins is not None:
        contents[ORIGINS] = origins.to_bytes()
    contents |= {f"golden/{index:02d}.npz": sample.to_bytes() for index, sample in enumerate(golden)}
    files = {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in contents.items()
    }
    manifest = Manifest(**draft.model_dump(), files=files)
    contents[MANIFEST] = _canonical_json(manifest)
    return install_bundle(models, draft.product, contents)[0]


def install_bundle(
    models: Path,
    product: str,
    contents: Mapping[str, bytes],
    publishing: Callable[[Bundle], AbstractContextManager[object]] = contextlib.nullcontext,
) -> tuple[Bundle, bool]:
    """Install the files of a bundle in the model repository, completely or not at all, and load it back.

    Args:
        models: The model repository; the bundle becomes `models/<product>/<version>/`.
        product: The product that the bundle must belong to.
        contents: The files by their names in the bundle, including `manifest.json`.
        publishing: Returns the context in which the given bundle, verified and new, becomes visible. If entering it
            raises, nothing is installed. If the bundle cannot be put in place, the context receives the exception.

    Returns:
        The bundle, and whether it is new: False if an intact bundle with this digest was already installed.

    Raises:
        BundleInvalid: The bundle would not be served; nothing was written.
        OSError: The model repository cannot be written; nothing was written.
    """
    version = hashlib.sha256(contents[MANIFEST]).hexdigest()[:12]
    target = models / product / version
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target.parent)
    try:
        # The leading dot hides the unfinished folder from the service. The folder inside it has the final name, so that
        # the bundle is verified under its final path before it becomes visible.
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=target.parent))
        try:
            staged = staging / version
            for name, data in contents.items():
                _write_synced(staged / name, data)
            bundle = Bundle.load(staged)
            made_for = bundle.manifest.product
            if made_for != product:
                raise BundleOfOtherProduct(target, made_for, product)
            is_new = _put_in_place(staged, target, lambda: publishing(bundle))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except BaseException as error:
        with contextlib.suppress(OSError):
            target.parent.rmdir()  # succeeds only if it is empty: the product was new
        if isinstance(error, BundleInvalid):
            error.set_refused()
        raise
    return replace(bundle, path=target), is_new


def _remove_stale(product_folder: Path) -> None:
    """Remove staging folders that a killed writer left behind. They are invisible but take space."""
    for leftover in product_folder.glob(f"{STAGING}*"):
        with contextlib.suppress(OSError):  # another process removes it, or permission is missing
            if time.time() - leftover.stat().st_mtime > STALE_S:
                shutil.rmtree(leftover)


def _put_in_place(staged: Path, target: Path, publishing: Callable[[], AbstractContextManager[object]]) -> bool:
    """Rename a verified folder to its final name unless an intact bundle has it; return whether it was renamed."""
    with contextlib.suppress(BundleInvalid):
        Bundle.load(target)
        return False
    damaged = staged.parent / "damaged"
    with publishing():
        if target.exists():
            # The installed bundle was damaged. The same name means the same content, so a process that still serves it
            # loses nothing.
            target.rename(damaged)
        try:
            staged.rename(target)
        except OSError:
            if target.exists():
                return False  # another process has just installed the same bundle
            if damaged.exists():
                damaged.rename(target)
            raise
        _sync_folder(target.parent)
    return True


def _canonical_json(record: BaseModel) -> bytes:
    return (json.dumps(record.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def _write_synced(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Flush the entries of a folder to disk, where the operating system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
