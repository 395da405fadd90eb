"""Putting a bundle into the model repository: all of it or nothing, and verified as it will be read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from service.bundle.bundle import Bundle
from service.bundle.card import CalibrationCard
from service.bundle.errors import BundleInvalid, BundleOfOtherProduct
from service.bundle.golden import GoldenSample
from service.bundle.manifest import CARD, MANIFEST, MODEL, FileEntry, Manifest, ManifestDraft

# No writer takes so long, so whoever left this is dead.
STALE_S = 24 * 3600
_STAGING = ".staging-"


def write_bundle(
    models: Path, *, draft: ManifestDraft, model: bytes, card: CalibrationCard, golden: Sequence[GoldenSample]
) -> Bundle:
    """Write a bundle into the model repository, all of it or nothing, and load it back.

    Args:
        models: The model repository; the bundle becomes `models/<product>/<version>/`.
        draft: The manifest without hashes.
        model: The ONNX graph; its `metadata_props` must hold `graph_metadata(draft)`.
        card: The calibration card, computed with this graph.
        golden: One to a hundred samples.

    Raises:
        BundleSchema, ExternalData: What was given would not be served; nothing is left behind.
    """
    contents = {MODEL: model, CARD: _canonical_json(card)}
    contents |= {f"golden/{index:02d}.npz": sample.to_bytes() for index, sample in enumerate(golden)}
    files = {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in contents.items()
    }
    manifest = Manifest(**draft.model_dump(), files=files)
    contents[MANIFEST] = _canonical_json(manifest)
    return install_bundle(models, draft.product, contents)[0]


def install_bundle(models: Path, product: str, contents: Mapping[str, bytes]) -> tuple[Bundle, bool]:
    """Put a bundle's files into the model repository, all of them or nothing, and load it back.

    Args:
        models: The model repository; the bundle becomes `models/<product>/<version>/`.
        product: Whose bundle it has to be.
        contents: The files by their names in the bundle, `manifest.json` among them.

    Returns:
        The bundle, and whether it is new: False where an intact one with this digest was there already.

    Raises:
        BundleInvalid: What was given would not be served; nothing is left behind.
        OSError: The model repository cannot be written; nothing is left behind.
    """
    version = hashlib.sha256(contents[MANIFEST]).hexdigest()[:12]
    target = models / product / version
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    try:
        # A dot keeps the half-written folder out of the service's sight; the second level carries the final name,
        # so that the bundle is verified as it will be read before it appears.
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=target.parent))
        try:
            staged = staging / version
            for name, data in contents.items():
                _write_synced(staged / name, data)
            made_for = Bundle.load(staged).manifest.product
            if made_for != product:
                raise BundleOfOtherProduct(target, made_for, product)
            is_new = _put_in_place(staged, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except BaseException as error:
        with contextlib.suppress(OSError):
            target.parent.rmdir()  # only where it is empty: the product came with this bundle
        if isinstance(error, BundleInvalid):
            error.found_at(target)
        raise
    return Bundle.load(target), is_new


def _sweep(product_folder: Path) -> None:
    """Remove what a writer left that was killed. Nobody ever sees it, but it takes space."""
    for leftover in product_folder.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError):  # whoever else sweeps, or may not
            if time.time() - leftover.stat().st_mtime > STALE_S:
                shutil.rmtree(leftover)


def _put_in_place(staged: Path, target: Path) -> bool:
    """Give a verified folder its name, unless an intact bundle has it."""
    try:
        Bundle.load(target)
    except BundleInvalid:
        if target.exists():
            # Damaged since it was written. The same name means the same content, so whoever serves it loses nothing.
            target.rename(staged.parent / "damaged")
    else:
        return False
    try:
        staged.rename(target)
    except OSError:
        if not target.exists():
            raise
        return False  # somebody else put the same bundle there at this moment
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
    """Make the names in a folder survive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
