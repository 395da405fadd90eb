"""The defects of the demo product. Each one changes a good part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import numpy as np

from training.demo.scene import CHAMFER, HOLES, OUTER_RADIUS, Field, Generator, Grid, Part, float32, stretch

Defect: TypeAlias = Literal["scratch", "dent", "stain", "burr", "missing_hole"]
DEFECTS: tuple[Defect, ...] = get_args(Defect)


def _free_position(rng: Generator) -> tuple[float, float]:
    """Draw a position on the flat ring, clear of the chamfers, as radius and angle."""
    return rng.uniform(104, 178), rng.uniform(0, 2 * math.pi)


def _scratch(part: Part, rng: Generator) -> Part:
    radius, angle = _free_position(rng)
    # A scratch along the circle would look like the brushing: the angle to it is at least 25 degrees.
    heading = angle + part.rotation_rad + rng.choice([-1, 1]) * rng.uniform(0.0, math.radians(65))
    length, bend, width = rng.uniform(55, 95), rng.uniform(-14, 14), rng.uniform(1.4, 2.4)
    depth = rng.uniform(1.3, 2.0)
    steps = np.linspace(-0.5, 0.5, 24)

    def groove(grid: Grid) -> Field:
        x, y = grid.position(radius, angle, part.rotation_rad)
        along, aside = steps * length, bend * (4 * steps**2 - 0.5)
        xs = x + along * math.cos(heading) + aside * math.sin(heading)
        ys = y - along * math.sin(heading) + aside * math.cos(heading)
        nearest = np.full_like(grid.x, np.inf)
        taper = np.zeros_like(grid.x)
        for start in range(len(steps) - 1):
            ahead_x, ahead_y = xs[start + 1] - xs[start], ys[start + 1] - ys[start]
            share = ((grid.x - xs[start]) * ahead_x + (grid.y - ys[start]) * ahead_y) / (ahead_x**2 + ahead_y**2)
            share = share.clip(0, 1)
            distance = np.hypot(grid.x - xs[start] - share * ahead_x, grid.y - ys[start] - share * ahead_y)
            closer = distance < nearest
            nearest = np.where(closer, distance, nearest)
            taper = np.where(closer, 1 - (2 * np.abs(steps[start] + share / 23)) ** 4, taper)
        return float32(taper * np.exp(-((nearest / width) ** 2)))

    return replace(part, relief=lambda grid: -depth * groove(grid), bare=lambda grid: 0.9 * groove(grid))


def _dent(part: Part, rng: Generator) -> Part:
    radius, angle = _free_position(rng)
    long, slim, turn = rng.uniform(13, 21), rng.uniform(9, 13), rng.uniform(0, math.pi)
    depth = rng.uniform(4.0, 6.5)

    def crater(grid: Grid) -> Field:
        x, y = grid.position(radius, angle, part.rotation_rad)
        u = (grid.x - x) * math.cos(turn) + (grid.y - y) * math.sin(turn)
        v = -(grid.x - x) * math.sin(turn) + (grid.y - y) * math.cos(turn)
        reach = (u / long) ** 2 + (v / slim) ** 2
        # A pit with a low wall of displaced metal around it.
        return float32(depth * (-np.exp(-1.6 * reach) + 0.25 * np.exp(-2.5 * (np.sqrt(reach) - 1.25) ** 2)))

    return replace(part, relief=crater)


def _stain(part: Part, rng: Generator) -> Part:
    radius, angle = _free_position(rng)
    drops = [(rng.normal(0, 11), rng.normal(0, 11), rng.uniform(9, 20)) for _ in range(6)]
    strength = rng.uniform(0.55, 0.85)
    ripple = rng.standard_normal((48, 48), dtype=np.float32)

    def film(grid: Grid) -> Field:
        x, y = grid.position(radius, angle, part.rotation_rad)
        pool = np.zeros_like(grid.x)
        for offset_x, offset_y, reach in drops:
            pool += np.exp(-((grid.x - x - offset_x) ** 2 + (grid.y - y - offset_y) ** 2) / reach**2)
        uneven = stretch(ripple, grid)
        return float32(strength * ((pool * (1 + 0.16 * uneven) - 0.6) * 2.2).clip(0, 1))

    return replace(part, film=film)


def _burr(part: Part, rng: Generator) -> Part:
    angle, half_width = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(4.5, 8.5))
    teeth, crests = rng.uniform(0.35, 1.0, size=7), rng.uniform(0.2, 1.0, size=19)
    reach = rng.uniform(8, 14)

    def bump(grid: Grid) -> Field:
        turn = (grid.angle_rad - angle + math.pi) % (2 * math.pi) - math.pi
        ragged = np.interp(turn / half_width, np.linspace(-1, 1, 9), [0, *teeth, 0])
        return float32(ragged)

    def torn(grid: Grid) -> Field:
        near_rim = ((grid.radius - (OUTER_RADIUS - 0.8 * CHAMFER)) / 5).clip(0, 1)
        return float32(bump(grid) * near_rim)

    def lip(grid: Grid) -> Field:
        turn = (grid.angle_rad - angle + math.pi) % (2 * math.pi) - math.pi
        folds = np.interp(turn / half_width, np.linspace(-1, 1, crests.size), crests)
        return float32(8.0 * torn(grid) * folds)

    return replace(
        part,
        rim=lambda grid: reach * bump(grid),
        bare=torn,
        relief=lip,
    )


def _missing_hole(part: Part, rng: Generator) -> Part:
    missing = int(rng.integers(HOLES))
    return replace(part, holes=tuple(index != missing for index in range(HOLES)))


_CHANGES: dict[Defect, Callable[[Part, Generator], Part]] = {
    "scratch": _scratch,
    "dent": _dent,
    "stain": _stain,
    "burr": _burr,
    "missing_hole": _missing_hole,
}


def add_defect(part: Part, defect: Defect, rng: Generator) -> Part:
    """Return the part with a defect, whose position and size the generator decides."""
    return _CHANGES[defect](part, rng)
