"""Every knob of a training run, with its unit and where its default comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from training.errors import InvalidFitConfig


@dataclass(frozen=True)
class FitConfig:
    """Settings of one run; the same settings, images and machine give the same weights, bit by bit."""

    method: str = "nnet"
    teachers: tuple[str, ...] = ("efficientnet_lite0",)
    """Frozen networks to learn from, as many as the method wants; `training.methods.fit_config` knows its own."""
    teacher_weights: tuple[Path, ...] = ()
    """State dicts to use instead of the teachers' usual sources, one for each, for machines without internet."""
    input_size: int = 256
    """Side of the square that every image is stretched to, or of its tiles, pixels; a multiple of 32."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share, a multiple of 32 below half a tile; None: no tiles, the whole image."""
    scale: float = 1.0
    """The image's size is multiplied by this before it is cut into tiles; above 0, at most 1."""
    iterations: int = 1000
    """Steps; fixed, because nothing but defective images could tell when to stop."""
    batch_size: int = 8
    pseudo_share: float = 0.5
    """Share of a batch that also goes through the pseudo branch with a painted defect; [C] DRD 1.0."""
    pseudo_pool: int = 800
    """Different painted images in a run; their frozen features are computed once (see `training.cached_views`)."""
    pseudo_recipes: Literal["mix", "published"] = "mix"
    """Which defects are painted: a mix of blobs, pasted pieces and scars, or DRD's published cut-paste alone."""
    augment: Literal["none", "rotate", "mild"] = "none"
    """How good images may vary beyond what was photographed: "rotate" for parts that lie at any angle."""
    views: int = 600
    """Augmented images in a run, at least; without augmentation the images themselves are the views."""
    lr: float = 2e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 30
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    seed: int = 0
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the networks while training; distances, losses and the exported graph are float32 always. Auto: bfloat16
    where the processor has instructions for it; elsewhere it would be slower than float32.
    """
    threads: int | None = None
    checkpoint_seconds: float = 60.0
    score_fraction: float = 0.01
    """Share of the map's cells, the highest ones, whose mean is the image score (for the manifest)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The method's own knobs, by name."""

    def __post_init__(self) -> None:
        if self.input_size < 32 or self.input_size % 32:
            raise InvalidFitConfig(f"input_size is {self.input_size}; it must be a multiple of 32, for instance 256.")
        if self.teacher_weights and len(self.teacher_weights) != len(self.teachers):
            raise InvalidFitConfig(
                f"{len(self.teacher_weights)} weights files for {len(self.teachers)} teachers; name one for each."
            )
        if self.overlap is not None and not (0 <= self.overlap < self.input_size / 2 and self.overlap % 32 == 0):
            raise InvalidFitConfig(
                f"overlap is {self.overlap}; it must be a multiple of 32 below half of the tile's {self.input_size}."
            )
        if not 0 < self.scale <= 1 or (self.overlap is None and self.scale != 1):
            raise InvalidFitConfig(f"scale is {self.scale}; it must lie above 0 and at most at 1, and needs tiles.")
        for name in ("iterations", "batch_size", "pseudo_pool", "views"):
            if getattr(self, name) < 1:
                raise InvalidFitConfig(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.pseudo_share <= 1:
            raise InvalidFitConfig(f"pseudo_share is {self.pseudo_share}; it must lie in 0..1.")

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values, for the manifest and for comparing runs."""
        return {
            **asdict(self),
            "teachers": list(self.teachers),
            "teacher_weights": [str(path) for path in self.teacher_weights],
        }
