"""The contract between training and service: a *bundle*, written once and never changed afterwards.

A bundle is the folder `models/<product>/<version>/`:

| file               | what it holds                                                                          |
|--------------------|----------------------------------------------------------------------------------------|
| `manifest.json`    | what it is, how it was made, and the sha256 of every other file                        |
| `model.onnx`       | one self-contained graph: `image` uint8 [N, H, W, 3] RGB in, `anomaly_map` float32 out |
| `calibration.json` | the calibration card: the score of every held-out good image                           |
| `golden/NN.npz`    | prepared inputs and the maps that torch computed for them                              |

`digest` is the sha256 of `manifest.json`, `version` its first twelve hex digits and the folder's name, so any change
to any byte of a bundle is seen when it is loaded.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NewType, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from service.bundle_graph import check_graph
from service.errors import BundleIntegrity, BundleSchema

SCHEMA_VERSION: Final = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
CARD = "calibration.json"
PRODUCT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

# The only files a bundle may hold. A closed list leaves no room for path tricks.
FILE_NAME = re.compile(r"model\.onnx|calibration\.json|golden/[0-9]{2}\.npz")
_METADATA_PREFIX = "plumbline."

Digest = NewType("Digest", str)
RecordT = TypeVar("RecordT", bound=BaseModel)
ProductName = Annotated[str, StringConstraints(pattern=f"^{PRODUCT_NAME.pattern}$")]
GroupedBy = Literal["folder", "date-in-name", "none"]
UInt8Image = npt.NDArray[np.uint8]
Float32Map = npt.NDArray[np.float32]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tiling(_Record):
    """How a picture larger than the network is cut into tiles of the network's input size; `service.inspection.tiling`
    does it.

    Attributes:
        overlap: Pixels that neighbouring tiles share, below half a tile: a defect up to this size lies wholly in one.
        scale: The picture's size is multiplied by this before it is cut.
    """

    overlap: int = Field(ge=0, le=2048)
    scale: float = Field(default=1.0, gt=0, le=1)


class InputGeometry(_Record):
    """What the graph takes: uint8 [N, height, width, 3], RGB. The whole image is stretched to it, or, with a tiling,
    covered by tiles of this size. Training, calibration and serving all follow what stands here.
    """

    height: int = Field(ge=32, le=4096)
    width: int = Field(ge=32, le=4096)
    color: Literal["rgb"] = "rgb"
    resize: Literal["stretch"] = "stretch"
    tiling: Tiling | None = None

    @model_validator(mode="after")
    def _leave_a_middle(self) -> Self:
        if self.tiling is not None and 2 * self.tiling.overlap >= min(self.height, self.width):
            raise ValueError("tiling.overlap must be less than half a tile, or three tiles would meet")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So a bundle without a tiling reads as it always did, and its graph's metadata still matches.
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name != "tiling" or value is not None}


class ScoreRule(_Record):
    """How an anomaly map becomes an image score: the mean of its highest `fraction` of patch values; with a tiling,
    that of the tile where it is highest."""

    kind: Literal["top_fraction"] = "top_fraction"
    fraction: float = Field(gt=0, le=1)


class Parity(_Record):
    """The parity certificate: how far the exported graph was from torch, and how far a server may be.

    Both are relative differences as `parity_difference` defines them; `provider` computed the measured one.
    """

    tolerance: float = Field(gt=0, le=0.1)
    measured: float = Field(ge=0)
    provider: str


class TrainingRecord(_Record):
    """Where the weights come from. `fingerprint` is a sha256 over the training images."""

    images: int = Field(ge=1)
    held_out: int = Field(ge=1)
    fingerprint: str
    seed: int
    iterations: int = Field(ge=0)
    seconds: float = Field(ge=0)
    config: dict[str, Any]


class FileEntry(_Record):
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class ManifestDraft(_Record):
    """Everything that a manifest says except the hashes, which `write_bundle` adds."""

    schema_version: Literal[1] = SCHEMA_VERSION
    product: ProductName
    method: str
    teachers: list[str]
    input: InputGeometry
    map_height: int = Field(ge=1)
    map_width: int = Field(ge=1)
    score_rule: ScoreRule
    parity: Parity
    training: TrainingRecord
    libraries: dict[str, str]
    git_revision: str | None
    created_at: AwareDatetime
    evaluation: dict[str, float] | None = None

    @model_validator(mode="after")
    def _align_tiles(self) -> Self:
        if (tiling := self.input.tiling) is None:
            return self
        strides = {self.input.height / self.map_height, self.input.width / self.map_width}
        if len(strides) > 1 or not (stride := strides.pop()).is_integer() or 32 % stride or tiling.overlap % stride:
            raise ValueError(
                "with a tiling, input and map must have the same whole ratio in height and width, which divides both "
                "32 and tiling.overlap: else tiles would not begin between two cells of the map"
            )
        return self


class Manifest(ManifestDraft):
    files: dict[str, FileEntry]


def _require_sorted(scores: list[float]) -> list[float]:
    if any(later < earlier for earlier, later in pairwise(scores)):
        raise ValueError("scores must be sorted in ascending order")
    return scores


class CalibrationGroup(_Record):
    """Good images that were taken together: one folder or one day."""

    name: str
    count: int = Field(ge=1)


class MeasureRange(_Record):
    """Smallest, median and largest value of a measure over the held-out good images."""

    low: float
    median: float
    high: float


class QualityStatistics(_Record):
    """What the held-out good images look like, measure by measure; see `service.inspection.quality.Quality`."""

    images: int = Field(ge=1)
    brightness: MeasureRange
    dark_share: MeasureRange
    bright_share: MeasureRange
    sharpness: MeasureRange
    contrast: MeasureRange


class CalibrationCard(_Record):
    """What the held-out good images scored, through the very code that serves.

    Attributes:
        provider: Execution provider that computed the scores.
        scores: Raw image scores of all held-out good images, ascending.
        groups: The days or folders that they cover.
        grouped_by: What told the groups apart; "none" means that all images count as one session.
        group_of_score: For every score the place of its image's group in `groups`; None on cards that were written
            before it was kept.
        map_median: Median of all patch values of these images' maps: 0 on the heatmap's scale.
        map_q99: Their 99 % quantile.
        quality: What these images look like; None in cards that were made before this was measured.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    provider: str
    scores: Annotated[list[float], Field(min_length=1), AfterValidator(_require_sorted)]
    groups: list[CalibrationGroup]
    grouped_by: GroupedBy
    group_of_score: list[Annotated[int, Field(ge=0)]] | None = None
    map_median: float
    map_q99: float
    quality: QualityStatistics | None = None

    @model_validator(mode="after")
    def _know_the_groups(self) -> Self:
        if (places := self.group_of_score) is not None and (
            len(places) != len(self.scores)
            or [places.count(place) for place in range(len(self.groups))] != [group.count for group in self.groups]
        ):
            raise ValueError("group_of_score must name a group for every score, each group as often as it has images")
        return self

    @property
    def days(self) -> list[str] | None:
        """The name of every score's group, None where the card does not tell."""
        places = self.group_of_score
        return None if places is None else [self.groups[place].name for place in places]


@dataclass(frozen=True)
class GoldenSample:
    """A prepared input and what torch computed for it.

    Attributes:
        image: uint8 [H, W, 3], RGB, already of the graph's input size.
        anomaly_map: float32 [h, w].
        score_gain: The factor on the image score, None where the method has none.
    """

    image: UInt8Image
    anomaly_map: Float32Map
    score_gain: float | None

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        arrays: dict[str, npt.NDArray[Any]] = {"image": self.image, "anomaly_map": self.anomaly_map}
        if self.score_gain is not None:
            arrays["score_gain"] = np.array(self.score_gain, np.float32)
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> GoldenSample:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            gain = float(arrays["score_gain"]) if "score_gain" in arrays else None
            return cls(arrays["image"], arrays["anomaly_map"], gain)


def parity_difference(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """How far two results of the same graph are apart: the largest deviation over the largest expected magnitude.

    Deviations are judged against the array's own scale, not value by value: an anomaly map has zeros, and there
    a value-wise quotient says nothing. One definition for export and for the service's self-test.

    Args:
        expected: What torch computed, any shape.
        actual: What the other side computed, same shape.

    Returns:
        A number >= 0; infinity where the shapes differ or a value is not finite.
    """
    reference, result = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if reference.shape != result.shape or not np.isfinite(result).all():
        return math.inf
    scale = max(float(np.abs(reference).max(initial=0.0)), 1e-12)
    return float(np.abs(reference - result).max(initial=0.0)) / scale


def graph_metadata(draft: ManifestDraft) -> dict[str, str]:
    """The manifest's essentials as ONNX `metadata_props`, so that a graph alone still says what it is."""
    essentials = draft.model_dump(mode="json", include={"schema_version", "product", "method", "teachers", "input"})
    essentials |= {
        "score_rule": draft.score_rule.model_dump(mode="json"),
        "fingerprint": draft.training.fingerprint,
        "seed": draft.training.seed,
        "git_revision": draft.git_revision,
    }
    return {_METADATA_PREFIX + key: json.dumps(value, sort_keys=True) for key, value in essentials.items()}


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk.

    Attributes:
        path: Its folder, `models/<product>/<version>/`.
        manifest: What it is and how it was made.
        card: The calibration card.
        golden: Inputs and expected results of the self-test.
        digest: sha256 (hex) of `manifest.json`; names the bundle in every stored inspection.
    """

    path: Path
    manifest: Manifest
    card: CalibrationCard
    golden: tuple[GoldenSample, ...]
    digest: Digest

    @property
    def version(self) -> str:
        return self.digest[:12]

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Read a bundle and check everything that can be checked without running it.

        Args:
            path: The folder `models/<product>/<version>/`.

        Raises:
            BundleIntegrity: A file is missing, unexpected, a link, or not the one that the manifest vouches for.
            BundleSchema: Manifest, card, golden samples or graph are not of a form that this version reads.
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
        """The graph's bytes, hashed again: what is run is what was verified.

        Raises:
            BundleIntegrity: The file changed since the bundle was loaded.
        """
        return self.read_file(MODEL)

    def read_file(self, name: str) -> bytes:
        """One of the bundle's files, hashed again.

        Raises:
            BundleIntegrity: The file changed since the bundle was loaded.
        """
        if name == MANIFEST:
            data = _read(self.path, name)
            if hashlib.sha256(data).hexdigest() != self.digest:
                raise BundleIntegrity(self.path, f"{name} was changed.")
            return data
        return _read_verified(self.path, name, self.manifest.files[name])


def read_manifest(path: Path) -> tuple[Manifest, Digest]:
    """What a bundle says about itself, and its digest. That it holds the files it says is checked, their content not.

    Raises:
        BundleIntegrity, BundleSchema: As `Bundle.load`.
    """
    manifest_bytes = _read(path, MANIFEST)
    manifest = _parse(path, MANIFEST, Manifest, manifest_bytes)
    digest = Digest(hashlib.sha256(manifest_bytes).hexdigest())
    if path.name != digest[:12]:
        raise BundleIntegrity(path, f"its manifest was changed: the folder should be named {digest[:12]}.")
    _check_file_list(path, manifest)
    return manifest, digest


def bundle_folders(product_folder: Path) -> list[Path]:
    """A product's bundles, newest first; those without a readable manifest come last.

    Args:
        product_folder: `models/<product>/`; half-written bundles in it begin with a dot and are not seen.
    """
    folders = [folder for folder in product_folder.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    return sorted(folders, key=_creation, reverse=True)


def newest_bundle(product_folder: Path) -> Path | None:
    """The most recently created bundle of a product, None where there is none."""
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
        raise BundleIntegrity(path, f"{name} is not the file that the manifest vouches for (sha256 differs).")
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
    strange = sorted(name for name in listed if not FILE_NAME.fullmatch(name))
    if strange:
        raise BundleSchema(path, f"the manifest lists a file that no bundle has: {strange[0]!r}.")
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
