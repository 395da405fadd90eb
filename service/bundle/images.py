"""The images that a bundle was made from, by the SHA-256 of their files."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from service.bundle.manifest import SCHEMA_VERSION, BundleRecord

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ImageHashes(BundleRecord):
    """Content of `images.json`. Bundles from before this file was written do not have it.

    Attributes:
        training: SHA-256 (hex) of the file of every training image, ascending.
        calibration: The same of every held-out image of the calibration card.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    training: list[Sha256]
    calibration: list[Sha256]

    @classmethod
    def of(cls, training: Iterable[str], calibration: Iterable[str]) -> ImageHashes:
        """Return the record of these hashes, sorted."""
        return cls(training=sorted(training), calibration=sorted(calibration))

    def role_of(self, sha256: str) -> Literal["training", "calibration"] | None:
        """Return what an image was used for; None if the bundle was made without it."""
        return "training" if sha256 in self._trained else "calibration" if sha256 in self._calibrated else None

    @cached_property
    def _trained(self) -> frozenset[str]:
        return frozenset(self.training)

    @cached_property
    def _calibrated(self) -> frozenset[str]:
        return frozenset(self.calibration)
