"""The shape of a washer: silhouette, height field, stamped letters, shadow."""

from __future__ import annotations

import math

import cv2
import numpy as np

from training.demo.scene import (
    BORE_RADIUS,
    CHAMFER,
    GROOVE_RADIUS,
    HOLE_CHAMFER,
    HOLE_CIRCLE,
    HOLE_RADIUS,
    HOLES,
    OUTER_RADIUS,
    STAMP_DEPTH,
    STAMPS,
    Field,
    Grid,
    Light,
    Part,
    blur,
    float32,
)


def silhouette(grid: Grid, part: Part) -> Field:
    """Return the share of each pixel that is metal, 0 to 1."""
    outside = grid.radius - (OUTER_RADIUS + (part.rim(grid) if part.rim else 0.0))
    distance = np.maximum(outside, BORE_RADIUS - grid.radius)
    for hole in _holes(grid, part):
        distance = np.maximum(distance, HOLE_RADIUS - hole)
    return float32((0.5 - distance * grid.scale).clip(0, 1))


def _holes(grid: Grid, part: Part) -> list[Field]:
    """Return the distance of every pixel to the centre of each punched hole, reference pixels."""
    distances = []
    for index in range(HOLES):
        if part.holes[index]:
            x, y = grid.position(HOLE_CIRCLE, index * 2 * math.pi / HOLES, part.rotation_rad)
            distances.append(np.hypot(grid.x - np.float32(x), grid.y - np.float32(y)))
    return distances


def relief(grid: Grid, part: Part) -> Field:
    """Return the height of the surface in reference pixels, up to a constant: only its slope is visible."""
    rim = OUTER_RADIUS + (part.rim(grid) if part.rim else 0.0)
    height = -0.85 * (grid.radius - (rim - CHAMFER)).clip(0, CHAMFER)
    height = height - 0.85 * (BORE_RADIUS + CHAMFER - grid.radius).clip(0, CHAMFER)
    for hole in _holes(grid, part):
        height = height - 0.9 * (HOLE_RADIUS + HOLE_CHAMFER - hole).clip(0, HOLE_CHAMFER)
    height = height - 1.1 * np.exp(-(((grid.radius - GROOVE_RADIUS) / 1.5) ** 2))
    for text, angle_deg in STAMPS:
        height = height - STAMP_DEPTH * stamp(grid, text, math.radians(angle_deg))
    if part.relief is not None:
        height = height + part.relief(grid)
    return float32(height)


def stamp(grid: Grid, text: str, angle_rad: float) -> Field:
    """Return letters along the circle, 0 to 1, upright in both halves of the image."""
    zoom = 4
    font, letter_scale, stroke = cv2.FONT_HERSHEY_SIMPLEX, 1.15 * zoom, 3 * zoom
    (width, tall), _ = cv2.getTextSize(text, font, letter_scale, stroke)
    margin = 8 * zoom
    canvas = np.zeros((tall + 2 * margin, width + 2 * margin), np.uint8)
    cv2.putText(canvas, text, (margin, margin + tall), font, letter_scale, 255, stroke, cv2.LINE_AA)
    letters = blur(float32(canvas / 255), 0.8 * zoom)
    turn = (grid.angle_rad - angle_rad + math.pi) % (2 * math.pi) - math.pi
    upright = 1 if math.sin(angle_rad) > 0 else -1
    u = canvas.shape[1] / 2 - upright * turn * HOLE_CIRCLE * zoom
    v = canvas.shape[0] / 2 - upright * (grid.radius - HOLE_CIRCLE) * zoom
    return float32(cv2.remap(letters, float32(u), float32(v), cv2.INTER_LINEAR))


def shadow(metal: Field, grid: Grid, key: Light) -> Field:
    """Return the soft shadow of the part on the belt, 0 to 1, on the side away from the light source."""
    thickness = 13.0 * grid.scale
    x, y, z = key.direction
    move = np.array([[1, 0, -x / z * thickness], [0, 1, -y / z * thickness]], np.float32)
    return blur(float32(cv2.warpAffine(metal, move, metal.shape[::-1])), 5.0 * grid.scale)
