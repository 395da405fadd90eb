"""Load a bundle from disk and verify it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import (
    BaseModel,
    ValidationError,
)

from service.bundle.card import CalibrationCard
from service.bundle.errors import BundleIntegrity, BundleInvalid, BundleSchema
from service.bundle.golden import GoldenSample, golden_bytes
from service.bundle.graph import check_graph
from service.bundle.images import ImageHashes
from service.bundle.manifest import (
    CARD,
    FILE_NAME,
    IMAGES,
    MANIFEST,
    MODEL,
    Digest,
    FileEntry,
    Manifest,
    graph_metadata,
)

RecordT = TypeVar("RecordT", bound=BaseModel)
MAX_MANIFEST_BYTES = 2**20
MAX_CARD_BYTES = 8 * 2**20
MAX_IMAGES_BYTES = 16 * 2**20  # more than 200,000 images
# protobuf reads no message of 2 GiB or more.
MAX_MODEL_BYTES = 2**31 - 1
# All golden samples of a bundle, unpacked: the exporter writes six, and an input has at most 4096 x 4096 pixels.
MAX_GOLDEN_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk.

    Attributes:
        path: Its folder, `models/<product>/<version>/`.
        manifest: Its content, origin and file hashes.
        card: The calibration card.
        golden: Inputs and expected results of the self-test.
        images: The images that it was made from; None on bundles from before they were recorded.
        digest: SHA-256 (hex) of `manifest.json`. Every stored inspection names its bundle by this digest.
    """

    path: Path
    manifest: Manifest
    card: CalibrationCard
    golden: tuple[GoldenSample, ...]
    images: ImageHashes | None
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
            BundleInvalid: Reading it needs more memory than is available.
        """
        with _memory_checked(path):
            manifest, digest = read_manifest(path)
            _check_sizes(path, manifest)
            card = _parse(path, CARD, CalibrationCard, _read_verified(path, CARD, manifest.files[CARD]))
            images = None
            if (entry := manifest.files.get(IMAGES)) is not None:
                images = _parse(path, IMAGES, ImageHashes, _read_verified(path, IMAGES, entry))
            bundle = cls(path, manifest, card, _read_golden(path, manifest), images, digest)
            image_shape, map_shape = _shapes(manifest)
            check_graph(
                path,
                bundle.read_model(),
                image_shape=image_shape,
                map_shape=map_shape,
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
        with _memory_checked(self.path):
            if name == MANIFEST:
                data = _read(self.path, name, MAX_MANIFEST_BYTES)
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
    with _memory_checked(path):
        manifest_bytes = _read(path, MANIFEST, MAX_MANIFEST_BYTES)
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


@contextmanager
def _memory_checked(path: Path) -> Iterator[None]:
    """Report a lack of memory as a refusal of the bundle, so that it affects nothing else."""
    try:
        yield
    except MemoryError as error:
        raise BundleInvalid(
            path,
            "reading it needs more memory than is available.",
            "Free memory and try again, or export a smaller bundle.",
        ) from error


def _creation(folder: Path) -> datetime:
    try:
        return Manifest.model_validate_json(_read(folder, MANIFEST, MAX_MANIFEST_BYTES)).created_at
    except (BundleInvalid, ValidationError, MemoryError):
        return datetime.min.replace(tzinfo=UTC)


def _read(path: Path, name: str, limit_bytes: int) -> bytes:
    try:
        with (path / name).open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        if not path.is_dir():
            raise BundleIntegrity(path, "there is no such folder.") from error
        raise BundleIntegrity(path, f"{name} cannot be read ({error.strerror}).") from error
    if len(data) > limit_bytes:
        raise BundleSchema(path, f"{name} is larger than {limit_bytes} bytes.")
    return data


def _read_verified(path: Path, name: str, entry: FileEntry) -> bytes:
    try:
        data = _read(path, name, entry.bytes)
    except BundleSchema:
        data = b""  # longer than the manifest says
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleIntegrity(path, f"{name} is not the file that the manifest lists (the SHA-256 differs).")
    return data


def _shapes(manifest: Manifest) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Return the shapes of one input and of one map."""
    return (manifest.input.height, manifest.input.width, 3), (manifest.map_height, manifest.map_width)


def _check_sizes(path: Path, manifest: Manifest) -> None:
    """Check the stated sizes of the files. No more than the stated size of a file is ever read.

    Raises:
        BundleSchema: A file is larger than any valid one could be.
    """
    per_sample = golden_bytes(*_shapes(manifest))
    for name, entry in manifest.files.items():
        limit = {MODEL: MAX_MODEL_BYTES, CARD: MAX_CARD_BYTES, IMAGES: MAX_IMAGES_BYTES}.get(name, per_sample)
        if entry.bytes > limit:
            raise BundleSchema(path, f"{name} has {entry.bytes} bytes; at most {limit} are allowed.")
    samples = len(manifest.files.keys() - {MODEL, CARD, IMAGES})
    if samples * per_sample > MAX_GOLDEN_BYTES:
        raise BundleSchema(
            path,
            f"its {samples} golden samples take {samples * per_sample} bytes when they are unpacked; at most "
            f"{MAX_GOLDEN_BYTES} are allowed.",
        )


def _parse(path: Path, name: str, record: type[RecordT], data: bytes) -> RecordT:
    try:
        return record.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise BundleSchema(path, f"{name}: {where[:200]}: {first['msg'][:200]}.") from error


def _check_file_list(path: Path, manifest: Manifest) -> None:
    listed = set(manifest.files)
    unknown = sorted(name for name in listed if not FILE_NAME.fullmatch(name))
    if unknown:
        raise BundleSchema(path, f"the manifest lists a file that is not part of a bundle: {unknown[0][:200]!r}.")
    if missing := {MODEL, CARD, "golden/00.npz"} - listed:
        raise BundleSchema(path, f"the manifest lists no {sorted(missing)[0]}.")
    for found in path.rglob("*"):
        name = found.relative_to(path).as_posix()
        if found.is_symlink():
            raise BundleIntegrity(path, f"{name} is a symbolic link.")
        if found.is_file() and name not in listed | {MANIFEST}:
            raise BundleIntegrity(path, f"{name} is not listed in the manifest.")


def _read_golden(path: Path, manifest: Manifest) -> tuple[GoldenSample, ...]:
    samples = []
    for name in sorted(manifest.files.keys() - {MODEL, CARD, IMAGES}):
        data = _read_verified(path, name, manifest.files[name])
        try:
            samples.append(GoldenSample.from_bytes(data, *_shapes(manifest)))
        except ValueError as error:
            raise BundleSchema(path, f"{name} is not a golden sample: {error}") from error
    return tuple(samples)
