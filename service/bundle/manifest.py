"""The contract between training and service: a *bundle*, written once and never changed afterwards.

A bundle is the folder `models/<product>/<version>/`:

| file               | content                                                                                |
|--------------------|----------------------------------------------------------------------------------------|
| `manifest.json`    | product, method, origin, and the SHA-256 of every other file                           |
| `model.onnx`       | one self-contained graph: `image` uint8 [N, H, W, 3] RGB in, `anomaly_map` float32 out |
| `calibration.json` | the calibration card: the score of every held-out good image                           |
| `golden/NN.npz`    | prepared inputs and their maps; torch computed those of an fp32 graph                  |
| `origins.npz`      | optional: reduced copies of the images that the prototypes of memory banks come from   |

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
ORIGINS = "origins.npz"
PRODUCT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# The only files that a bundle may contain. A closed list excludes path traversal.
FILE_NAME = re.compile(r"model\.onnx|calibration\.json|images\.json|origins\.npz|golden/[0-9]{2}\.npz")
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

    Attributes:
        height, width: Size in pixels.
        color: Order of the channels.
        resize: How an image gets this size; see `service.inspection.preparation`.
        tiling: How an image is cut into tiles; None without tiles.
        jpeg: How JPEG files are decoded: at their full size, or, "scaled", at the smallest of 1/8, 2/8, 3/8 and 4/8 of
            it that is not below this size; see `scaled_size` in `service.inspection.decoding.jpeg`. Other formats are
            decoded at their full size.
    """

    height: int = Field(ge=32, le=4096)
    width: int = Field(ge=32, le=4096)
    color: Literal["rgb"] = "rgb"
    resize: Literal["stretch"] = "stretch"
    tiling: Tiling | None = None
    jpeg: Literal["full", "scaled"] = "full"

    @model_validator(mode="after")
    def _check_scaling(self) -> Self:
        if self.tiling is not None and self.jpeg == "scaled":
            raise ValueError("jpeg must be full with a tiling, because tiles are cut from the image at its full size")
        return self

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.tiling is not None and 2 * self.tiling.overlap >= min(self.height, self.width):
            raise ValueError("tiling.overlap must be less than half a tile, otherwise three tiles would overlap")
        return self

    @model_serializer(mode="wrap")
    def _omit_later_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Bundles from before these fields existed serialise as they did then, so that their graph's metadata still
        # matches. A service from before them refuses a bundle that uses one, because it does not know the field.
        values: dict[str, Any] = handler(self)
        defaults = {"tiling": None, "jpeg": "full"}
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}


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


class MemoryBankChoice(BundleRecord):
    """The variant of the memory banks that the training selected for a product, from good images alone.

    Attributes:
        aligned: Whether the part lies at the same place in every image, so that the position counts.
        half_lloyd: Whether the prototypes are moved half-way to the mean of their cells.
        place_weight: Factor on the weight of the position, if the part is aligned.
        prototypes: Prototypes of each memory bank.
        same_place: Share of the hardest third of the cells of good images whose nearest training cell lies at exactly
            the same place. The part counts as aligned from 0.5 on.
        near_place: Share of all cells of good images whose nearest training cell lies at most one cell away. Below 0.5
            the images count as those of a surface.
        mean_distances: Mean distance of the cells of good images to the nearest training cell, without position, by
            the name of the memory bank.
    """

    aligned: bool
    half_lloyd: bool
    place_weight: float = Field(ge=0)
    prototypes: int = Field(ge=1)
    same_place: float = Field(ge=0, le=1)
    near_place: float = Field(ge=0, le=1)
    mean_distances: dict[str, float]


class Selected(BundleRecord):
    """What the training selected for a product, from good images alone.

    Attributes:
        energy_floor: The energy floor of the distances, in mean energies of normal features.
        memory_bank: The variant of the memory banks; None for methods without one.
    """

    energy_floor: float = Field(ge=0)
    memory_bank: MemoryBankChoice | None = None


TensorName = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_]{1,128}$")]
SourceName = Annotated[str, StringConstraints(pattern="^[a-z0-9_]{1,64}$")]


class SourceTensors(BundleRecord):
    """One of the maps that are added up to the anomaly map.

    Attributes:
        name: Its name; those of the methods are in docs/methods.md.
        tensor: What it adds to the tensor `Explanation.total`, of the same shape.
    """

    name: SourceName
    tensor: TensorName


class BankTensors(BundleRecord):
    """A memory bank in the graph. Its cells divide the graph's input into `rows` times `columns` equal parts.

    Attributes:
        name: Name of the source that contains its distances.
        candidates: A value for each cell and prototype, float32 [N * rows * columns, prototypes], cells row by row.
        nearest: Whether the prototype nearest to a cell has the highest or the lowest value.
        distances: Distance of each cell to its nearest prototype, float32 [N, 1, rows, columns].
        rows: Rows of cells.
        columns: Columns of cells.
        prototypes: Number of prototypes.
    """

    name: SourceName
    candidates: TensorName
    nearest: Literal["highest", "lowest"]
    distances: TensorName
    rows: int = Field(ge=1, le=4096)
    columns: int = Field(ge=1, le=4096)
    prototypes: int = Field(ge=1, le=65_536)


class Explanation(BundleRecord):
    """The tensors inside of the graph that explain the anomaly map. They are not outputs and cost no time.

    The anomaly map is a linear function of `total`, which is the sum of the sources. So every source has a share of
    every value of the map.

    Attributes:
        total: The sum of the sources, before it is smoothed.
        sources: The maps that are added up.
        banks: The memory banks; each is one of the sources.
    """

    total: TensorName
    sources: list[SourceTensors] = Field(min_length=1, max_length=32)
    banks: list[BankTensors] = Field(max_length=8)

    @property
    def tensors(self) -> frozenset[str]:
        """Return the names of all tensors."""
        banks = (name for bank in self.banks for name in (bank.candidates, bank.distances))
        return frozenset([self.total, *(source.tensor for source in self.sources), *banks])

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        sources, banks = [source.name for source in self.sources], [bank.name for bank in self.banks]
        if len(set(sources)) < len(sources) or len(set(banks)) < len(banks):
            raise ValueError("two sources or two banks have the same name")
        if unknown := set(banks) - set(sources):
            raise ValueError(f"the bank {sorted(unknown)[0]!r} is not one of the sources")
        return self


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
        selected: What was selected for the product; None for a method without a selection, and where it is not known
            because the bundle is older than this record.
    """

    images: int = Field(ge=1)
    held_out: int = Field(ge=1)
    fingerprint: str
    seed: int
    iterations: int = Field(ge=0)
    seconds: float = Field(ge=0)
    config: dict[str, Any]
    weak: list[str] = []
    selected: Selected | None = None


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
    explanation: Explanation | None = None
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
