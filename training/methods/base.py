"""What the training loop, the exporter and the calibration need from a method; nothing about any one method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from training.config import checked
from training.teachers import Teacher

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


OptionsT = TypeVar("OptionsT", bound="DataclassInstance")


@dataclass(frozen=True)
class Batch:
    """One training step's input.

    Attributes:
        clean: float32 `[B, 3, H, W]`, RGB in [0, 1].
        frozen: what `Method.frozen_features` gave for `clean`, taken from the cache.
        pseudo: float32 `[P, 3, H, W]`, images with painted defects; P <= B, possibly 0.
        pseudo_frozen: what `Method.frozen_features` gave for `pseudo`.
        origin: float32 `[P, 3, H, W]`, what `pseudo` was painted on.
        origin_frozen: what `Method.frozen_features` gave for `origin`.
        mask: float32 `[P, 1, H, W]`, 1 where `pseudo` was painted.
        step: number of the step, from 0.
        steps: steps of the whole run.
    """

    clean: Tensor
    frozen: list[Tensor]
    pseudo: Tensor
    pseudo_frozen: list[Tensor]
    origin: Tensor
    origin_frozen: list[Tensor]
    mask: Tensor
    step: int
    steps: int

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1)."""
        return self.step / self.steps


class Method(nn.Module, ABC):
    """A trainable method whose forward pass is the graph that ships.

    A new method is one file with a subclass, plus its line in `training.methods.METHODS`. Everything trainable is an
    `nn.Parameter` that requires a gradient; everything that ships is a parameter or a buffer.
    """

    name: ClassVar[str]
    map_stride: ClassVar[int]
    """Image pixels per cell of the anomaly map."""
    default_teachers: ClassVar[tuple[str, ...]] = ("efficientnet_lite0",)
    """Registry names of the frozen teachers where nobody names others; as many as `build` wants."""
    recommended: ClassVar[Mapping[str, Any]] = {}
    """Settings of `FitConfig` that this method is trained with where nobody chooses others."""
    stages: ClassVar[tuple[float, ...]] = (1.0,)
    """Shares of the run after which a stage ends, the last one 1. Each has a learning rate curve of its own."""

    @classmethod
    @abstractmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        """Builds an untrained method with the weights that the torch seed of the moment gives.

        Args:
            teachers: as many as `default_teachers` has, in the same order.
            options: the method's own knobs, by name.
        """

    @property
    @abstractmethod
    def teachers(self) -> list[str]:
        """Registry names of the frozen teachers, for the manifest."""

    @abstractmethod
    def frozen_features(self, pixels: Tensor) -> list[Tensor]:
        """Everything about an image that training never changes: computed once per image and kept.

        Args:
            pixels: float32 `[N, 3, H, W]`, RGB in [0, 1].

        Returns:
            Tensors whose first axis is N.
        """

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        """Takes constants from the training images' frozen features, once, before the first step."""
        del frozen

    def consolidate(self, images: NDArray[np.uint8], frozen: Sequence[Tensor]) -> None:
        """Takes constants from the training images, uint8 `[V, H, W, 3]`, and their frozen features once the weights
        are final."""
        del images, frozen

    @abstractmethod
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the losses, float32 scalars.

        `loss` is the one to descend, `distil` the part of it on good images, the others are for the eye.
        """

    @abstractmethod
    def calibrate(self, reference: NDArray[np.uint8]) -> None:
        """Measures the constants of the map on good images, uint8 `[M, H, W, 3]`."""

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """The exported graph.

        Args:
            image: uint8 `[N, H, W, 3]`, RGB.

        Returns:
            The anomaly map, float32 `[N, h, w]`, and a factor on the image score, float32 `[N]`, or None where
            the method has none.
        """

    @abstractmethod
    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Makes inputs that between them take every data-dependent choice of the graph.

        Args:
            images: uint8 `[K, H, W, 3]`, good images to start from.

        Returns:
            uint8 `[L, H, W, 3]`; an exporter that froze a choice while tracing fails the comparison on them.
        """


def parse_options(kind: type[OptionsT], given: Mapping[str, Any]) -> OptionsT:
    """A method's knobs, with what is given in place of the defaults.

    Args:
        kind: the method's frozen dataclass of options.
        given: by name; lists stand for tuples, as JSON has none.

    Raises:
        InvalidFitConfig: a name is not among them, or a value is of another type.
    """
    return kind(**checked(kind, given, "option"))
