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
PRODUCT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# The only files a bundle may hold. A closed list leaves no room for path tricks.
FILE_NAME = re.compile(r"model\.onnx|calibration\.json|golden/[0-9]{2}\.npz")
_METADATA_PREFIX = "plumbline."
Digest = NewType("Digest", str)
ProductName = Annotated[str, StringConstraints(pattern=f"^{PRODUCT_NAME.pattern}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tiling(_Record):
    """How an image larger than the network is cut into tiles of the network's input size; `service.inspection.tiling`
    does it.

    Attributes:
        overlap: Pixels that neighbouring tiles share, below half a tile: a defect up to this size lies wholly in one.
        scale: The image's size is multiplied by this before it is cut.
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
