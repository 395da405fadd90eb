"""The contract between training and service: a *bundle*, written once and never changed afterwards.

A bundle is the folder `models/<product>/<version>/`:

| file               | content                                                                                |
|--------------------|----------------------------------------------------------------------------------------|
| `manifest.json`    | product, method, origin, and the SHA-256 of every other file                           |
| `model.onnx`       | one self-contained graph: `image` uint8 [N, H, W, 3] RGB in, `anomaly_map` float32 out |
| `calibration.json` | the calibration card: the score of every held-out good image                           |
| `golden/NN.npz`    | prepared inputs and their maps; torch computed those of an fp32 graph                  |

`digest` is the SHA-256 of `manifest.json`. `version` is its first twelve hex digits and the name of the folder. So any
changed byte of a bundle is detected when it is loaded.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, Literal, NewType, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

SCHEMA_VERSION: Final = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
CARD = "calibration.json"
IMAGES = "images.json"
PRODUCT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# The only files that a bundle may contain. A closed list excludes path traversal.
FILE_NAME = re.compile(r"model\.onnx|calibration\.json|images\.json|golden/[0-9]{2}\.npz")
_METADATA_PREFIX = "plumbline."
Digest = NewType("Digest", str)
ProductName = Annotated[str, StringConstraints(pattern=f"^{PRODUCT_NAME.pattern}$")]
Precision = Literal["fp32", "fp16", "int8"]
"""What the network of a graph computes with. The distances, the memory banks and the smoothing are always float32."""


class BundleRecord(BaseModel):
    """Base class of what the JSON files of a bundle contain: immutable, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tiling(BundleRecord):
    """How an image larger than the network's input is cut into tiles of that size.

    `service.inspection.tiling` cuts the image and combines the maps of the tiles.

    Attributes:
        overlap: Pixels that neighbouring tiles share, less than half a tile. A defect up to this size lies completely
            in at least one tile.
        scale: Factor on the image's size before it is cut.
    """

    overlap: int = Field(ge=0, le=2048)
    scale: float = Field(default=1.0, gt=0, le=1)


class InputGeometry(BundleRecord):
    """The input of the graph: uint8 [N, height, width, 3], RGB. Training, calibration and serving all follow it.

    Without a tiling the whole image is stretched to this size. With a tiling it is covered by tiles of this size.
    """

    height: int = Field(ge=32, le=4096)
    width: int = Field(ge=32, le=4096)
    color: Literal["rgb"] = "rgb"
    resize: Literal["stretch"] = "stretch"
    tiling: Tiling | None = None

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.tiling is not None and 2 * self.tiling.overlap >= min(self.height, self.width):
            raise ValueError("tiling.overlap must be less than half a tile, otherwise three tiles would overlap")
        return self

    @model_serializer(mode="wrap")
    def _omit_missing_tiling(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Bundles from before tilings existed serialise as they did then, so that their graph's metadata still matches.
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name != "tiling" or value is not None}


class ScoreRule(BundleRecord):
    """How an anomaly map becomes an image score: the mean of its highest `fraction` of patch values.

    With a tiling, the rule applies to every tile, and the highest tile score counts.
    """

    kind: Literal["top_fraction"] = "top_fraction"
    fraction: float = Field(gt=0, le=1)


class Parity(BundleRecord):
    """The parity certificate: the measured difference from the golden maps, and the tolerance.

    The golden maps of an fp32 graph are those of torch. A graph of lower precision computes other maps than torch, and
    its thresholds are calibrated on those, so its golden maps are its own; see `training.conversion`.

    Attributes:
        tolerance: Largest relative difference, as `parity_difference` defines it, at which a server serves the bundle.
        measured: The relative difference at export.
        provider: The execution provider that it was measured on.
    """

    tolerance: float = Field(gt=0, le=0.1)
    measured: float = Field(ge=0)
    provider: str


class TrainingRecord(BundleRecord):
    """The origin of the weights.

    Attributes:
        images: Number of training images.
        held_out: Number of held-out good images.
        fingerprint: SHA-256 over the training images.
        seed: Seed of all random numbers.
        iterations: Training steps.
        seconds: Duration of the training.
        config: The configuration that the training ran with.
        weak: Why the bundle would have been refused without `--allow-weak`; empty if it passed every check.
    """

    images: int = Field(ge=1)
    held_out: int = Field(ge=1)
    fingerprint: str
    seed: int
    iterations: int = Field(ge=0)
    seconds: float = Field(ge=0)
    config: dict[str, Any]
    weak: list[str] = []


class CalibratedOn(BundleRecord):
    """What ran the graph when its thresholds were calibrated.

    Attributes:
        runtime: Name and version, for example "onnxruntime 1.31.1".
        provider: The execution provider.
    """

    runtime: str
    provider: str


class FileEntry(BundleRecord):
    """Hash and size of one file of the bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class ManifestDraft(BundleRecord):
    """Everything in a manifest except the file hashes, which `write_bundle` adds.

    Attributes:
        precision: What the network of the graph computes with.
        calibrated_on: What ran the graph when it was calibrated; None on bundles from before this was recorded.
        converted_from: Digest of the fp32 bundle that a graph of lower precision was made from, else None.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    product: ProductName
    method: str
    teachers: list[str]
    input: InputGeometry
    map_height: int = Field(ge=1, le=4096)
    map_width: int = Field(ge=1, le=4096)
    score_rule: ScoreRule
    parity: Parity
    training: TrainingRecord
    libraries: dict[str, str]
    git_revision: str | None
    created_at: AwareDatetime
    evaluation: dict[str, float] | None = None
    precision: Precision = "fp32"
    calibrated_on: CalibratedOn | None = None
    converted_from: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _align_tiles(self) -> Self:
        if (tiling := self.input.tiling) is None:
            return self
        strides = {self.input.height / self.map_height, self.input.width / self.map_width}
        if len(strides) > 1 or not (stride := strides.pop()).is_integer() or 32 % stride or tiling.overlap % stride:
            raise ValueError(
                "with a tiling, the ratio of input to map must be the same integer in height and width and must "
                "divide both 32 and tiling.overlap; otherwise tiles would not start at the edge of a map cell"
            )
        return self


class Manifest(ManifestDraft):
    """A complete manifest."""

    files: dict[str, FileEntry]


def graph_metadata(draft: ManifestDraft) -> dict[str, str]:
    """Return the essential values of the manifest as ONNX `metadata_props`, so that a graph alone can be identified."""
    essentials = draft.model_dump(mode="json", include={"schema_version", "product", "method", "teachers", "input"})
    essentials |= {
        "score_rule": draft.score_rule.model_dump(mode="json"),
        "fingerprint": draft.training.fingerprint,
        "seed": draft.training.seed,
        "git_revision": draft.git_revision,
    }
    # Graphs from before other precisions existed do not state theirs.
    if draft.precision != "fp32":
        essentials["precision"] = draft.precision
    return {_METADATA_PREFIX + key: json.dumps(value, sort_keys=True) for key, value in essentials.items()}
