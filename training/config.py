"""The settings of a training run, and the type check of settings that come from outside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError

from service.schemas.violations import list_violations, suggestion
from training.errors import InvalidFitConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MACHINE_SETTINGS = ("checkpoint_seconds", "threads", "device")


@dataclass(frozen=True)
class FitConfig:
    """Settings of one training run.

    On a CPU the same settings, images and machine give the same weights, bit by bit.
    """

    method: str = "nnet"
    """Registry name, see `training.methods.METHODS`."""
    teachers: tuple[str, ...] = ("efficientnet_lite0",)
    """Frozen networks to distil, as many as the method needs; `training.methods.fit_config` sets the method's own."""
    teacher_weights: tuple[Path, ...] = ()
    """State dicts to load instead of the teachers' default weights, one per teacher, for machines without internet."""
    input_size: int = 256
    """Side in pixels of the square that every image, or every tile, is resized to; a multiple of 32."""
    overlap: int | None = None
    """Overlap of neighbouring tiles in pixels, a multiple of 32 below half a tile. None: no tiling."""
    scale: float = 1.0
    """Factor on the image size before tiling, in (0, 1]."""
    scaled_decoding: bool = False
    """Decode JPEG images that are at least twice as large as the input at a fraction of their size, in training and
    in service; not with tiles. Other formats are decoded in full, so all images of a product should be JPEG.
    """
    iterations: int = 1000
    """Training steps; 0 for a method that has nothing to train. The number is fixed: early stopping would need
    defective images.
    """
    batch_size: int = 8
    """Good images per step."""
    pseudo_share: float = 0.5
    """Share of a batch that is also trained with a synthetic anomaly, in [0, 1]. DRD's code uses 1.0."""
    pseudo_pool: int = 800
    """Distinct images with synthetic anomalies in a run; their frozen features are cached (`training.cached_views`)."""
    pseudo_recipes: Literal["mix", "published"] = "mix"
    """Kinds of synthetic anomalies: a mix of blobs, cut-paste and scars, or the cut-paste of DRD's code alone."""
    augment: Literal["none", "rotate", "mild"] = "none"
    """Augmentation of good images: "rotate" by any angle, for parts without a fixed orientation, or "mild"."""
    views: int = 600
    """Smallest number of augmented images in a run. Without augmentation the images themselves are used."""
    lr: float = 2e-3
    """Highest learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    warmup_steps: int = 30
    """Steps of linear warm-up, in every stage."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.995
    """Decay of the exponential moving average of the weights, see `training.ema`."""
    seed: int = 0
    """Seed of all random numbers."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the networks during training; distances, losses and the exported graph are always float32.
    Auto: bfloat16 where the device has instructions for it. Without them bfloat16 is slower than float32.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that trains. Auto: the first CUDA GPU if there is one, else the CPU. The constants of the map, the export
    and the golden samples are always computed on the CPU. Tests cover the CPU and a simulated GPU; training has not
    been run on a real GPU.
    """
    threads: int | None = None
    """CPU threads of PyTorch. None: PyTorch's default."""
    checkpoint_seconds: float = 60.0
    """Time between two checkpoints, seconds."""
    score_fraction: float = 0.01
    """The image score is the mean of this share of the map's cells, the highest ones; written to the manifest."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method, by name."""

    def __post_init__(self) -> None:
        if self.input_size < 32 or self.input_size % 32:
            raise InvalidFitConfig(f"input_size is {self.input_size}; expected a multiple of 32, for example 256.")
        if self.teacher_weights and len(self.teacher_weights) != len(self.teachers):
            raise InvalidFitConfig(
                f"{len(self.teacher_weights)} weights files are given for {len(self.teachers)} teachers; give one file "
                "per teacher."
            )
        if self.overlap is not None and not (0 <= self.overlap < self.input_size / 2 and self.overlap % 32 == 0):
            raise InvalidFitConfig(
                f"overlap is {self.overlap}; expected a multiple of 32 below half the tile size {self.input_size}."
            )
        if self.scaled_decoding and self.overlap is not None:
            raise InvalidFitConfig("scaled_decoding is set with tiles, which are cut from images at their full size.")
        if not 0 < self.scale <= 1 or (self.overlap is None and self.scale != 1):
            raise InvalidFitConfig(
                f"scale is {self.scale}; expected a value above 0 and at most 1, and a scale below 1 needs tiles."
            )
        for name, least in (("iterations", 0), ("batch_size", 1), ("pseudo_pool", 1), ("views", 1)):
            if getattr(self, name) < least:
                raise InvalidFitConfig(f"{name} is {getattr(self, name)}; expected at least {least}.")
        if not 0 <= self.pseudo_share <= 1:
            raise InvalidFitConfig(f"pseudo_share is {self.pseudo_share}; expected a value in 0..1.")

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, for the manifest and for comparing runs."""
        return {
            **asdict(self),
            "teachers": list(self.teachers),
            "teacher_weights": [str(path) for path in self.teacher_weights],
        }

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the result, as JSON values; those of the machine are left out."""
        settings = self.as_json()
        for name in MACHINE_SETTINGS:
            del settings[name]
        return json.loads(json.dumps(settings, default=str))  # type: ignore[no-any-return]


def checked(kind: type[DataclassInstance], given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Check values against the types of a dataclass's fields.

    A dataclass does not check its values: `iterations=5.5` or a text would otherwise fail much later.

    Args:
        kind: A dataclass.
        given: JSON values (tuples count as lists) by the names of its fields.
        what: The term for a field in error messages, for example "option".

    Returns:
        The values; lists are converted to tuples and texts to paths where the field has that type.

    Raises:
        InvalidFitConfig: A name is not a field, or a value has the wrong type.
    """
    hints = get_type_hints(kind)
    if unknown := sorted(set(given) - set(hints)):
        reason = f"There is no {what} {', '.join(unknown)}; choose from {', '.join(sorted(hints))}"
        raise InvalidFitConfig(f"{reason} {suggestion(unknown[0], hints)}".rstrip() + ".")
    return {name: _converted(hints[name], value, f"{what} {name}") for name, value in given.items()}


def _converted(hint: Any, value: Any, label: str) -> Any:
    try:
        # Strict JSON: a number is not accepted as a text, nor true as a number; a list is accepted as a tuple.
        return TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        raise InvalidFitConfig(f"The {label} is {value!r}: it {list_violations(error)[0]['msg']}.") from error
