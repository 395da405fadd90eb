"""Load a bundle from disk and verify it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import (
    BaseModel,
    ValidationError,
)

from service.bundle.card import CalibrationCard
from service.bundle.errors import BundleIntegrity, BundleSchema
from service.bundle.golden import GoldenSample
from service.bundle.graph import check_graph
from service.bundle.manifest import CARD, FILE_NAME, MANIFEST, MODEL, Digest, FileEntry, Manifest, graph_metadata

RecordT = TypeVar("RecordT", bound=BaseModel)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk.

    Attributes:
        path: Its folder, `models/<product>/<version>/`.
        manifest: Its content, origin and file hashes.
        card: The calibration card.
        golden: Inputs and expected results of the self-test.
        digest: SHA-256 (hex) of `manifest.json`. Every stored inspection names its bundle by this digest.
    """

    path: Path
    manifest: Manifest
    card: CalibrationCard
    golden: tuple[GoldenSample, ...]
    digest: Digest

    @property
    def version(self) -> str:
        """Return the version: the first twelve hex digits of the digest."""
        return self.digest[:12]

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Load a bundle and check everything that can be checked without running its graph.

        Args:
            path: The folder `models/<product>/<version>/`.

        Raises:
            BundleIntegrity: A file is missing, unexpected, a symbolic link, or differs from its hash in the manifest.
            BundleSchema: The schema of the manifest, the card, the golden samples or the graph is not supported.
            ExternalData: The graph refers to files outside itself.
        """
        manifest, digest = read_manifest(path)
        contents = {name: _read_verified(path, name, entry) for name, entry in manifest.files.items() if name != MODEL}
        card = _parse(path, CARD, CalibrationCard, contents[CARD])
        bundle = cls(path, manifest, card, _parse_golden(path, manifest, contents), digest)
        size = manifest.input
        check_graph(
            path,
            bundle.read_model(),
            image_shape=(size.height, size.width, 3),
            map_shape=(manifest.map_height, manifest.map_width),
            metadata=graph_metadata(manifest),
        )
        return bundle

    def read_model(self) -> bytes:
        """Return the bytes of the graph, with the hash checked again: what runs is what was verified.

        Raises:
            BundleIntegrity: The file has changed since the bundle was loaded.
        """
        return self.read_file(MODEL)

    def read_file(self, name: str) -> bytes:
        """Return the bytes of one file of the bundle, with the hash checked again.

        Raises:
            BundleIntegrity: The file has changed since the bundle was loaded.
        """
        if name == MANIFEST:
            data = _read(self.path, name)
            if hashlib.sha256(data).hexdigest() != self.digest:
                raise BundleIntegrity(self.path, f"{name} was changed.")
            return data
        return _read_verified(self.path, name, self.manifest.files[name])


def read_manifest(path: Path) -> tuple[Manifest, Digest]:
    """Read the manifest of a bundle and compute its digest.

    The list of files is compared with the folder; the content of the other files is not checked.

    Raises:
        BundleIntegrity, BundleSchema: As for `Bundle.load`.
    """
    manifest_bytes = _read(path, MANIFEST)
    manifest = _parse(path, MANIFEST, Manifest, manifest_bytes)
    digest = Digest(hashlib.sha256(manifest_bytes).hexdigest())
    if path.name != digest[:12]:
        raise BundleIntegrity(
            path, f"its manifest was changed: the folder should be named {digest[:12]}, after its digest."
        )
    _check_file_list(path, manifest)
    return manifest, digest


def bundle_folders(product_folder: Path) -> list[Path]:
    """Return the folders of a product's bundles, newest first; those without a readable manifest come last.

    Args:
        product_folder: `models/<product>/`. Folders of unfinished bundles begin with a dot and are skipped.
    """
    folders = [folder for folder in product_folder.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    return sorted(folders, key=_creation, reverse=True)


def newest_bundle(product_folder: Path) -> Path | None:
    """Return the folder of the most recently created bundle of a product, or None if there is none."""
    return next(iter(bundle_folders(product_folder)), None)


def _creation(folder: Path) -> datetime:
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes()).created_at
    except (OSError, ValidationError):
        return datetime.min.replace(tzinfo=UTC)


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise BundleIntegrity(path, f"{name} cannot be read ({error.strerror}).") from error


def _read_verified(path: Path, name: str, entry: FileEntry) -> bytes:
    data = _read(path, name)
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleIntegrity(path, f"{name} is not the file that the manifest lists (the SHA-256 differs).")
    return data


def _parse(path: Path, name: str, record: type[RecordT], data: bytes) -> RecordT:
    try:
        return record.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise BundleSchema(path, f"{name}: {where}: {first['msg']}.") from error


def _check_file_list(path: Path, manifest: Manifest) -> None:
    listed = set(manifest.files)
    unknown = sorted(name for name in listed if not FILE_NAME.fullmatch(name))
    if unknown:
        raise BundleSchema(path, f"the manifest lists a file that is not part of a bundle: {unknown[0]!r}.")
    if missing := {MODEL, CARD, "golden/00.npz"} - listed:
        raise BundleSchema(path, f"the manifest lists no {sorted(missing)[0]}.")
    for found in path.rglob("*"):
        name = found.relative_to(path).as_posix()
        if found.is_symlink():
            raise BundleIntegrity(path, f"{name} is a symbolic link.")
        if found.is_file() and name not in listed | {MANIFEST}:
            raise BundleIntegrity(path, f"{name} is not listed in the manifest.")


def _parse_golden(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> tuple[GoldenSample, ...]:
    samples = []
    for name in sorted(name for name in contents if name.startswith("golden/")):
        try:
            sample = GoldenSample.from_bytes(contents[name])
        except (ValueError, KeyError, OSError) as error:
            raise BundleSchema(path, f"{name} is not a golden sample ({error}).") from error
        image = ((manifest.input.height, manifest.input.width, 3), np.dtype(np.uint8))
        anomaly_map = ((manifest.map_height, manifest.map_width), np.dtype(np.float32))
        if (sample.image.shape, sample.image.dtype) != image:
            raise BundleSchema(path, f"{name}: its image is not uint8 {image[0]}.")
        if (sample.anomaly_map.shape, sample.anomaly_map.dtype) != anomaly_map:
            raise BundleSchema(path, f"{name}: its map is not float32 {anomaly_map[0]}.")
        samples.append(sample)
    return tuple(samples)
