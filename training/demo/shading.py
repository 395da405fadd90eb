"""The rendering of a part: radiance of metal and belt under the light sources, and the camera's exposure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from training.demo.scene import REFERENCE_PX, STAMPS, Field, Generator, Grid, Part, blur, float32, stretch
from training.demo.shape import relief, shadow, silhouette, stamp

ImageArray: TypeAlias = npt.NDArray[np.uint8]


def radiance_of(part: Part, grid: Grid, rng: Generator) -> Field:
    """Return the radiance at the lens: float32 `[size, size, 3]`, about 0 to 1."""
    belt = _belt(grid, part, rng)
    streaks, glints = _brushing(grid, rng), _brushing(grid, rng)
    plain = silhouette(grid, replace(part, rim=None))
    metal_share = silhouette(grid, part)
    belt = belt * (1 - np.float32(0.62) * shadow(plain, grid, part.key))[..., None]

    bare = part.bare(grid)
    height = relief(grid, part)
    slope_y, slope_x = (blur(float32(slope * grid.scale), 0.6 * grid.scale) for slope in np.gradient(height))
    metal = _metal(grid, part, (slope_x, slope_y), streaks, glints, bare)
    if part.film is not None:
        # Oil and rust remove the highlight and tint the rest.
        film = part.film(grid)[..., None]
        edge = np.abs(cv2.Laplacian(film[..., 0], cv2.CV_32F, ksize=5))[..., None].clip(0, 1)
        dirt = metal * np.array([0.50, 0.38, 0.26], np.float32) + np.array([0.035, 0.022, 0.01], np.float32)
        metal = float32(metal + (dirt - metal) * film - 0.06 * edge * film)
    scene = belt + (metal - belt) * metal_share[..., None]
    return blur(scene, 0.55 * grid.scale).clip(0, None)


def _metal(grid: Grid, part: Part, slopes: tuple[Field, Field], streaks: Field, glints: Field, bare: Field) -> Field:
    """Shade brushed steel: diffuse light, and a highlight that is narrow along the brushing and wide across it."""
    safe_radius = np.maximum(grid.radius, 1)
    tangent_x, tangent_y = -grid.y / safe_radius, grid.x / safe_radius
    slope_x, slope_y = slopes
    along = slope_x * tangent_x + slope_y * tangent_y
    across = slope_x * tangent_y - slope_y * tangent_x
    steepness = np.sqrt(1 + slope_x**2 + slope_y**2)
    brushed = 1 - bare
    shade = np.full_like(grid.x, 0.10)  # ambient light
    for light in (part.key, part.fill):
        light_x, light_y, light_z = light.direction
        half_x, half_y, half_z = light.halfway
        lambert = ((light_z - slope_x * light_x - slope_y * light_y) / steepness).clip(0, None)
        off_along = (half_x * tangent_x + half_y * tangent_y + half_z * along) / np.sqrt(1 + along**2)
        off_across = (half_x * tangent_y - half_y * tangent_x + half_z * across) / np.sqrt(1 + across**2)
        off_along = off_along + 0.05 * streaks * brushed
        highlight = np.exp(-0.5 * (off_along / (0.105 + 0.2 * bare)) ** 2 - 0.5 * (off_across / 0.42) ** 2)
        shade += light.strength * (0.17 * lambert + 0.74 * highlight)
    shade *= 1 + (0.07 * streaks + 0.05 * glints) * brushed
    for text, angle_deg in STAMPS:
        shade *= 1 - 0.42 * stamp(grid, text, math.radians(angle_deg))  # little light reaches the bottom
    return float32(shade[..., None] * np.array([0.985, 1.0, 1.02], np.float32))


def _belt(grid: Grid, part: Part, rng: Generator) -> Field:
    """Shade a dark rubber belt with a fine diamond weave at a random phase: the belt moves between two images."""
    x, y = grid.x + part.centre_xy[0], grid.y + part.centre_xy[1]
    phase_x, phase_y = rng.uniform(0, 2 * math.pi, size=2)
    period = 2 * math.pi / 15.0
    weave = np.sin((x + y) * period + phase_x) * np.sin((x - y) * period + phase_y)
    cloth = blur(rng.standard_normal(grid.x.shape, dtype=np.float32), 0.9 * grid.scale) * grid.scale
    cloud = stretch(rng.standard_normal((9, 9), dtype=np.float32), grid)
    level = 0.060 + 0.013 * weave + 0.012 * cloth + 0.003 * cloud
    return float32(level[..., None] * np.array([0.94, 1.0, 1.12], np.float32))


def _brushing(grid: Grid, rng: Generator) -> Field:
    """Return fine noise that is stretched along the circle, of about unit variance."""
    rings, steps = 440, 1024
    noise = rng.standard_normal((rings, steps), dtype=np.float32)
    total = np.zeros_like(noise)
    for length, weight in ((61, 0.5), (161, 0.65), (401, 0.8)):
        wrapped = np.concatenate([noise[:, -length:], noise, noise[:, :length]], axis=1)
        drawn = float32(cv2.blur(cv2.blur(wrapped, (length, 1)), (length // 2, 1)))[:, length:-length]
        total += weight * drawn / drawn.std()
        noise = np.roll(noise, 17, axis=0)
    total = float32(cv2.GaussianBlur(total, (1, 5), 0.75))
    total = np.concatenate([total, total[:, :1]], axis=1) / total.std()
    columns = grid.angle_rad * np.float32(steps / (2 * math.pi))
    rows = (grid.radius * 2).clip(0, rings - 1)
    return float32(cv2.remap(total, columns, rows, cv2.INTER_LINEAR))


def exposed(radiance: Field, grid: Grid, part: Part, rng: Generator) -> ImageArray:
    """Convert radiance to an image: lens fall-off, exposure, white balance, shot and read noise, tone curve, uint8."""
    off_axis = np.hypot(grid.x + part.centre_xy[0], grid.y + part.centre_xy[1]) / (REFERENCE_PX / 2)
    exposure = part.gain * (1 - 0.11 * off_axis**2)
    balance = np.array([1 + part.warmth, 1, 1 - part.warmth], np.float32)
    signal = radiance * exposure[..., None] * balance
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    signal = signal + noise * np.sqrt(2.0e-5 + 4.0e-5 * signal)
    # A soft shoulder instead of clipping keeps the brushing visible in the highlight.
    toned = 1.06 * signal / (signal + 0.32) * (1 + 0.12 * signal)
    return np.asarray(toned.clip(0, 1) * 255 + 0.5, np.uint8)
