"""The interface between a method and the training loop, the exporter and the calibration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from service.bundle.manifest import Selected
from training.config import checked
from training.teachers import Teacher

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


OptionsT = TypeVar("OptionsT", bound="DataclassInstance")


@dataclass(frozen=True)
class Batch:
    """The input of one training step.

    Attributes:
        clean: float32 `[B, 3, H, W]`, normal images, RGB in [0, 1].
        frozen: The result of `Method.frozen_features` for `clean`, from the cache.
        synthetic: float32 `[P, 3, H, W]`, images with synthetic anomalies, RGB in [0, 1]; P <= B, possibly 0.
        synthetic_frozen: The result of `Method.frozen_features` for `synthetic`.
        origin: float32 `[P, 3, H, W]`, the normal images that `synthetic` was made from.
        origin_frozen: The result of `Method.frozen_features` for `origin`.
        mask: float32 `[P, 1, H, W]`, 1 where `synthetic` differs from `origin`, else 0.
        step: Number of the step, from 0.
        steps: Number of steps of the whole run.
    """

    clean: Tensor
    frozen: list[Tensor]
    synthetic: Tensor
    synthetic_frozen: list[Tensor]
    origin: Tensor
    origin_frozen: list[Tensor]
    mask: Tensor
    step: int
    steps: int

    @property
    def progress(self) -> float:
        """Return the completed fraction of the run, in [0, 1)."""
        return self.step / self.steps


class Method(nn.Module, ABC):
    """A trainable method; its forward pass is the exported graph.

    Everything trainable is an `nn.Parameter` that requires a gradient; everything that the graph needs is a parameter
    or a buffer. `training.fit` calls `build`, `prepare`, `training_step` per step, `consolidate` and `calibrate`, in
    this order.
    """

    name: ClassVar[str]
    """Registry name, the value of `--method`."""
    map_stride: ClassVar[int]
    """Image pixels per cell of the anomaly map."""
    default_teachers: ClassVar[tuple[str, ...]] = ("efficientnet_lite0",)
    """Registry names of the frozen teachers if none are chosen; their number is the one that `build` requires."""
    recommended: ClassVar[Mapping[str, Any]] = {}
    """Fields of `FitConfig` with the values that this method uses by default."""
    quick: ClassVar[Mapping[str, Any] | None] = None
    """Options of a variant that needs no training steps; None for a method without one."""
    stages: ClassVar[tuple[float, ...]] = (1.0,)
    """Fractions of the run at which a stage ends, ascending, the last one 1. Each has its own learning rate curve."""

    selected: Selected | None = None
    """What `calibrate` selected for the product, for the manifest; None for a method that selects nothing."""

    @property
    def learns(self) -> bool:
        """Whether training steps change anything."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @classmethod
    @abstractmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        """Build an untrained method; its weights depend on the state of torch's global generator.

        Args:
            teachers: As many as `default_teachers` has, in the same order.
            options: The method's own options, by name.

        Returns:
            The untrained method.

        Raises:
            InvalidFitConfig: An option is unknown or has another type.
        """

    @property
    @abstractmethod
    def teachers(self) -> list[str]:
        """Return the registry names of the frozen teachers, for the manifest."""

    @abstractmethod
    def frozen_features(self, pixels: Tensor) -> list[Tensor]:
        """Compute the features of images that training does not change; they are computed once and cached.

        Args:
            pixels: float32 `[N, 3, H, W]`, RGB in [0, 1].

        Returns:
            Tensors with first axis N.
        """

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        """Measure constants on the frozen features of the training images, once, before the first step.

        Args:
            frozen: The result of `frozen_features` for all training images.
        """
        del frozen

    def consolidate(self, images: NDArray[np.uint8], frozen: Sequence[Tensor]) -> None:
        """Measure constants on the training images, once, after the last step.

        Args:
            images: uint8 `[V, H, W, 3]`, RGB.
            frozen: The result of `frozen_features` for them.
        """
        del images, frozen

    @abstractmethod
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a step.

        Args:
            batch: The input.

        Returns:
            float32 scalars by name: `loss` is minimised, `distil` is its part on normal images, the others are
            reported only.
        """

    @abstractmethod
    def calibrate(self, reference: NDArray[np.uint8]) -> None:
        """Measure the constants of the anomaly map.

        Args:
            reference: uint8 `[M, H, W, 3]`, RGB, normal images that were not trained on.
        """

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the outputs of the exported graph.

        Args:
            image: uint8 `[N, H, W, 3]`, RGB.

        Returns:
            The anomaly map, float32 `[N, h, w]`, >= 0 and unbounded, and a factor on the image score, float32 `[N]`,
            or None for methods without one.
        """

    @abstractmethod
    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Make inputs that exercise all data-dependent choices of the graph.

        If an exporter fixed such a choice while tracing, the comparison with torch fails on these inputs.

        Args:
            images: uint8 `[K, H, W, 3]`, normal images to start from.

        Returns:
            uint8 `[L, H, W, 3]`.
        """


def parse_options(kind: type[OptionsT], given: Mapping[str, Any]) -> OptionsT:
    """Build a method's options from the given values and the defaults.

    Args:
        kind: The frozen dataclass of the method's options.
        given: Values by name; lists stand for tuples, which JSON does not have.

    Returns:
        The options.

    Raises:
        InvalidFitConfig: A name is unknown, or a value has another type.
    """
    return kind(**checked(kind, given, "option"))
