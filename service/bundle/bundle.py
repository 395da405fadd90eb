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
from service.bundle.files import all_changes, read_bounded, read_verified, require_unchanged
from service.bundle.golden import GoldenSample, golden_bytes
from service.bundle.graph import check_graph
from service.bundle.images import ImageHashes
from service.bundle.manifest import (
    CARD,
    FILE_NAME,
    IMAGES,
    MANIFEST,
    MODEL,
    ORIGINS,
    Digest,
    Manifest,
    graph_metadata,
)
from service.bundle.origins import MAX_ORIGINS_BYTES, Origins
from service.schemas.violations import list_violations

RecordT = TypeVar("RecordT", bound=BaseModel)
MAX_MANIFEST_BYTES = 2**20
_MAX_REASON = 400
MAX_CARD_BYTES = 8 * 2**20
MAX_IMAGES_BYTES = 16 * 2**20  # more than 200,000 images
# protobuf reads no message of 2 GiB or more.
MAX_MODEL_BYTES = 2**31 - 1
# All golden samples of a bundle, unpacked: the exporter writes six, and an input has at most 4096 x 4096 pixels.
MAX_GOLDEN_BYTES = 512 * 2**20
_MAX_BYTES = {MODEL: MAX_MODEL_BYTES, CARD: MAX_CARD_BYTES, IMAGES: MAX_IMAGES_BYTES, ORIGINS: MAX_ORIGINS_BYTES}
FIRST_GOLDEN = "golden/00.npz"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. Graph and golden samples stay on disk: they are read, and verified again, when they are needed.

    Attributes:
        path: Its folder, `models/<product>/<version>/`.
        manifest: Its content, origin and file hashes.
        card: The calibration card.
        images: The images that it was made from; None on bundles from before they were recorded.
        digest: SHA-256 (hex) of `manifest.json`. Every stored inspection names its bundle by this digest.
    """

    path: Path
    manifest: Manifest
    card: CalibrationCard
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
            manifest, digest = _parse_manifest(path)
            _check_sizes(path, manifest)
            try:
                require_unchanged(path, manifest, digest)
                bundle = cls._read_records(path, manifest, digest)
                bundle._check_contents()
            except BundleIntegrity as error:
                # The first change that was found may not be the only one.
                raise all_changes(path, manifest, digest) or error from error
            return bundle

    @classmethod
    def describe(cls, path: Path) -> Bundle:
        """Read what is needed to decide with a bundle, without its graph and its golden samples.

        They have to be checked with `load` before the graph runs for the first time.

        Args:
            path: The folder `models/<product>/<version>/`.

        Raises:
            BundleIntegrity: The manifest, the card or the list of images is missing or changed, or the folder contains
                a file that the manifest does not list.
            BundleSchema: The schema of one of them is not supported.
            BundleInvalid: Reading it needs more memory than is available.
        """
        with _memory_checked(path):
            manifest, digest = _parse_manifest(path)
            _check_sizes(path, manifest)
            require_unchanged(path, manifest, digest)
            return cls._read_records(path, manifest, digest)

    @classmethod
    def _read_records(cls, path: Path, manifest: Manifest, digest: Digest) -> Bundle:
        """Read and check the records that the manifest lists."""
        card = _parse(path, CARD, CalibrationCard, read_verified(path, CARD, manifest.files[CARD]))
        images = None
        if (entry := manifest.files.get(IMAGES)) is not None:
            images = _parse(path, IMAGES, ImageHashes, read_verified(path, IMAGES, entry))
        return cls(path, manifest, card, images, digest)

    def _check_contents(self) -> None:
        """Check golden samples and graph."""
        for name in self._golden_names():
            self.read_golden(name)
        image_shape, map_shape = _shapes(self.manifest)
        check_graph(
            self.path,
            self.read_model(),
            image_shape=image_shape,
            map_shape=map_shape,
            metadata=graph_metadata(self.manifest),
            tensors=frozenset() if self.manifest.explanation is None else self.manifest.explanation.tensors,
        )
        self.read_origins()  # checked here, and not kept: they are needed rarely

    @property
    def golden(self) -> tuple[GoldenSample, ...]:
        """Read and return the inputs and expected results of the self-test.

        Raises:
            BundleIntegrity, BundleSchema: As for `load`.
        """
        return tuple(map(self.read_golden, self._golden_names()))

    def read_golden(self, name: str = FIRST_GOLDEN) -> GoldenSample:
        """Read and return one golden sample; by default the first one.

        Raises:
            BundleIntegrity, BundleSchema: As for `load`.
        """
        try:
            return GoldenSample.from_bytes(self.read_file(name), *_shapes(self.manifest))
        except ValueError as error:
            raise BundleSchema(self.path, f"{name} is not a golden sample: {error}") from error

    def _golden_names(self) -> list[str]:
        return sorted(self.manifest.files.keys() - _MAX_BYTES.keys())

    def read_model(self) -> bytes:
        """Return the bytes of the graph, with the hash checked again: what runs is what was verified.

        Raises:
            BundleIntegrity: The file has changed since the bundle was loaded.
        """
        return self.read_file(MODEL)

    def read_origins(self) -> Origins | None:
        """Return where the prototypes of the memory banks come from; None on bundles that do not state it.

        Raises:
            BundleIntegrity: The file has changed since the bundle was loaded.
            BundleSchema: The file is not valid.
        """
        if ORIGINS not in self.manifest.files:
            return None
        explanation = self.manifest.explanation
        try:
            return Origins.from_bytes(self.read_file(ORIGINS), [] if explanation is None else explanation.banks)
        except ValueError as error:
            raise BundleSchema(self.path, f"{ORIGINS} is not valid: {error}") from error

    def read_file(self, name: str) -> bytes:
        """Return the bytes of one file of the bundle, with the hash checked again.

        Raises:
            BundleIntegrity: The file has changed since the bundle was loaded.
        """
        with _memory_checked(self.path):
            if name == MANIFEST:
                data = read_bounded(self.path, name, MAX_MANIFEST_BYTES)
                if hashlib.sha256(data).hexdigest() != self.digest:
                    raise BundleIntegrity(self.path, f"{name} was changed.")
                return data
            return read_verified(self.path, name, self.manifest.files[name])


def read_manifest(path: Path) -> tuple[Manifest, Digest]:
    """Read the manifest of a bundle and compute its digest.

    The list of files is compared with the folder; the content of the other files is not checked.

    Raises:
        BundleIntegrity, BundleSchema: As for `Bundle.load`.
    """
    with _memory_checked(path):
        manifest, digest = _parse_manifest(path)
        require_unchanged(path, manifest, digest)
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
        return _manifest_of(folder).created_at
    except (BundleInvalid, ValidationError, MemoryError):
        return datetime.min.replace(tzinfo=UTC)


def _manifest_of(folder: Path) -> Manifest:
    return Manifest.model_validate_json(read_bounded(folder, MANIFEST, MAX_MANIFEST_BYTES))


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
        limit = _MAX_BYTES.get(name, per_sample)
        if entry.bytes > limit:
            raise BundleSchema(path, f"{name} has {entry.bytes} bytes; at most {limit} are allowed.")
    samples = len(manifest.files.keys() - _MAX_BYTES.keys())
    if samples * per_sample > MAX_GOLDEN_BYTES:
        raise BundleSchema(
            path,
            f"its {samples} golden samples take {samples * per_sample} bytes when they are unpacked; at most "
            f"{MAX_GOLDEN_BYTES} are allowed.",
        )


def _parse_manifest(path: Path) -> tuple[Manifest, Digest]:
    data = read_bounded(path, MANIFEST, MAX_MANIFEST_BYTES)
    manifest = _parse(path, MANIFEST, Manifest, data)
    if unknown := sorted(name for name in manifest.files if not FILE_NAME.fullmatch(name)):
        raise BundleSchema(path, f"the manifest lists a file that is not part of a bundle: {unknown[0][:200]!r}.")
    if missing := {MODEL, CARD, FIRST_GOLDEN} - manifest.files.keys():
        raise BundleSchema(path, f"the manifest lists no {sorted(missing)[0]}.")
    return manifest, Digest(hashlib.sha256(data).hexdigest())


def _parse(path: Path, name: str, record: type[RecordT], data: bytes) -> RecordT:
    try:
        return record.model_validate_json(data)
    except ValidationError as error:
        first = list_violations(error, record)[0]
        if name == MANIFEST and first["type"] == "json_invalid":
            raise BundleIntegrity(path, f"{name} {first['msg'].partition(';')[0]}.") from error
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise BundleSchema(path, f"{name}: {where[:200]}: {first['msg'][:_MAX_REASON]}.") from error
