"""The scene of the demo product: pixel grid, light sources, and a washer with its variations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Field: TypeAlias = npt.NDArray[np.float32]
Generator: TypeAlias = np.random.Generator

REFERENCE_PX = 512  # the size at which one unit of length is one pixel
OUTER_RADIUS = 206.0
BORE_RADIUS = 80.0
CHAMFER = 9.0  # width of the bevel at the rim and at the bore
HOLE_CIRCLE = 143.0
HOLE_RADIUS = 14.0
HOLE_CHAMFER = 3.5
HOLES = 6
GROOVE_RADIUS = 184.0
STAMPS = (("M12", 90.0), ("A2", 270.0))  # stamped text, and its angle in degrees
STAMP_DEPTH = 2.4


@dataclass(frozen=True)
class Light:
    """A distant light source. The azimuth is counter-clockwise from the right-hand side of the image."""

    azimuth_rad: float
    elevation_rad: float
    strength: float

    @property
    def direction(self) -> tuple[float, float, float]:
        """The unit vector towards the light source."""
        flat = math.cos(self.elevation_rad)
        # The y axis of the image points down, that of the azimuth points up.
        return (
            flat * math.cos(self.azimuth_rad),
            -flat * math.sin(self.azimuth_rad),
            math.sin(self.elevation_rad),
        )

    @property
    def halfway(self) -> tuple[float, float, float]:
        """The unit vector halfway between light source and camera, which is straight above the part."""
        x, y, z = self.direction
        length = math.sqrt(x * x + y * y + (z + 1) ** 2)
        return x / length, y / length, (z + 1) / length


@dataclass(frozen=True)
class Grid:
    """The position of every pixel on the part, in reference pixels and radians."""

    x: Field
    y: Field  # points down, like rows
    radius: Field
    angle_rad: Field  # in the part's frame, counter-clockwise, 0 to 2 pi
    scale: float  # image pixels per reference pixel

    @classmethod
    def build(cls, size_px: int, centre_xy: tuple[float, float], rotation_rad: float) -> Grid:
        """Build the grid of a square image of `size_px` pixels, for a part at this centre and rotation."""
        scale = size_px / REFERENCE_PX
        axis = (np.arange(size_px, dtype=np.float32) + 0.5) / scale - REFERENCE_PX / 2
        x, y = np.meshgrid(axis - np.float32(centre_xy[0]), axis - np.float32(centre_xy[1]))
        angle = (np.arctan2(-y, x) - rotation_rad) % (2 * math.pi)
        return cls(x, y, np.hypot(x, y), angle.astype(np.float32), scale)

    def position(self, radius: float, angle_rad: float, rotation_rad: float) -> tuple[float, float]:
        """Convert the part's polar coordinates to the x and y of this grid."""
        turned = angle_rad + rotation_rad
        return radius * math.cos(turned), -radius * math.sin(turned)


@dataclass(frozen=True)
class Part:
    """One washer: the variations between good parts, and the changes by a defect."""

    centre_xy: tuple[float, float]
    rotation_rad: float
    key: Light
    fill: Light
    gain: float
    warmth: float
    texture: Generator
    holes: tuple[bool, ...] = (True,) * HOLES
    rim: Callable[[Grid], Field] | None = None  # additional radius of the rim
    relief: Callable[[Grid], Field] | None = None  # additional height
    film: Callable[[Grid], Field] | None = None  # thickness of a film of dirt, 0 to 1
    bare: Callable[[Grid], Field] = field(default=lambda grid: np.zeros_like(grid.x))  # torn, unbrushed metal

    @classmethod
    def draw(cls, rng: Generator) -> Part:
        """Draw a good part."""
        azimuth = math.radians(rng.normal(125, 9))
        return cls(
            centre_xy=(rng.uniform(-7, 7), rng.uniform(-7, 7)),
            rotation_rad=math.radians(rng.uniform(-4, 4)),
            key=Light(azimuth, math.radians(rng.uniform(46, 54)), rng.uniform(0.92, 1.05)),
            fill=Light(azimuth + math.radians(rng.uniform(75, 100)), math.radians(38), rng.uniform(0.25, 0.35)),
            gain=rng.uniform(0.93, 1.07),
            warmth=rng.uniform(-0.02, 0.02),
            texture=rng.spawn(1)[0],
        )


def blur(values: Field, sigma_px: float) -> Field:
    """Apply a Gaussian blur; sigma in pixels of the image."""
    return float32(cv2.GaussianBlur(values, (0, 0), max(sigma_px, 0.2)))


def stretch(coarse: Field, grid: Grid) -> Field:
    """Resize a coarse field to the grid, with cubic interpolation."""
    return float32(cv2.resize(coarse, grid.x.shape, interpolation=cv2.INTER_CUBIC))


def float32(values: npt.ArrayLike) -> Field:
    """Convert to float32."""
    return np.asarray(values, np.float32)
