"""Draws the demo product: a stamped, brushed-metal washer on a conveyor, with exact defect masks.

Images of our own can be shipped, redrawn by anybody and published with what was learnt from them, which no
public inspection data set allows without conditions. The drawing is a small renderer: a height field of
chamfers, grooves and stamped letters, shaded with an anisotropic highlight as circular brushing gives it, under
a key light and a fill light whose direction and strength vary from part to part.

    python -m training.demo.part OUT --train 120 --test 12 --seed 0

writes an MVTec-layout folder. Lengths are in pixels of a 512 x 512 image and scale with the size asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.progress import Progress

Defect: TypeAlias = Literal["scratch", "dent", "stain", "burr", "missing_hole"]
DEFECTS: tuple[Defect, ...] = get_args(Defect)

Field: TypeAlias = npt.NDArray[np.float32]
ImageArray: TypeAlias = npt.NDArray[np.uint8]
MaskArray: TypeAlias = npt.NDArray[np.bool_]
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
STAMPS = (("M12", 90.0), ("A2", 270.0))  # what is stamped, at which angle in degrees
STAMP_DEPTH = 2.4
VISIBLE = 4 / 255  # a change of radiance below this is no defect: nobody could see it


@dataclass(frozen=True)
class _Light:
    """A distant lamp. The azimuth is counter-clockwise from the right-hand side of the image."""

    azimuth_rad: float
    elevation_rad: float
    strength: float

    @property
    def direction(self) -> tuple[float, float, float]:
        flat = math.cos(self.elevation_rad)
        # The image's y axis points down, the azimuth's up.
        return (
            flat * math.cos(self.azimuth_rad),
            -flat * math.sin(self.azimuth_rad),
            math.sin(self.elevation_rad),
        )

    @property
    def halfway(self) -> tuple[float, float, float]:
        """Between lamp and camera, which looks straight down: where a mirror would have to face."""
        x, y, z = self.direction
        length = math.sqrt(x * x + y * y + (z + 1) ** 2)
        return x / length, y / length, (z + 1) / length


@dataclass(frozen=True)
class _Grid:
    """Every pixel's place on the part, in reference pixels and radians."""

    x: Field
    y: Field  # points down, as rows do
    radius: Field
    angle_rad: Field  # in the part's own frame, counter-clockwise, 0 to 2 pi
    scale: float  # pixels of the image per reference pixel

    @classmethod
    def build(cls, size_px: int, centre_xy: tuple[float, float], rotation_rad: float) -> _Grid:
        scale = size_px / REFERENCE_PX
        axis = (np.arange(size_px, dtype=np.float32) + 0.5) / scale - REFERENCE_PX / 2
        x, y = np.meshgrid(axis - np.float32(centre_xy[0]), axis - np.float32(centre_xy[1]))
        angle = (np.arctan2(-y, x) - rotation_rad) % (2 * math.pi)
        return cls(x, y, np.hypot(x, y), angle.astype(np.float32), scale)

    def place(self, radius: float, angle_rad: float, rotation_rad: float) -> tuple[float, float]:
        """Where a point given in the part's polar coordinates lies, in this grid's x and y."""
        turned = angle_rad + rotation_rad
        return radius * math.cos(turned), -radius * math.sin(turned)


@dataclass(frozen=True)
class _Part:
    """One washer as it lies there: everything that differs between two good parts, and what is wrong with it."""

    centre_xy: tuple[float, float]
    rotation_rad: float
    key: _Light
    fill: _Light
    gain: float
    warmth: float
    texture: Generator
    holes: tuple[bool, ...] = (True,) * HOLES
    rim: Callable[[_Grid], Field] | None = None  # extra radius of the rim
    relief: Callable[[_Grid], Field] | None = None  # extra height
    film: Callable[[_Grid], Field] | None = None  # thickness of dirt, 0 to 1
    bare: Callable[[_Grid], Field] = field(default=lambda grid: np.zeros_like(grid.x))  # torn, unbrushed metal

    @classmethod
    def draw(cls, rng: Generator) -> _Part:
        azimuth = math.radians(rng.normal(125, 9))
        return cls(
            centre_xy=(rng.uniform(-7, 7), rng.uniform(-7, 7)),
            rotation_rad=math.radians(rng.uniform(-4, 4)),
            key=_Light(azimuth, math.radians(rng.uniform(46, 54)), rng.uniform(0.92, 1.05)),
            fill=_Light(azimuth + math.radians(rng.uniform(75, 100)), math.radians(38), rng.uniform(0.25, 0.35)),
            gain=rng.uniform(0.93, 1.07),
            warmth=rng.uniform(-0.02, 0.02),
            texture=rng.spawn(1)[0],
        )


def render_part(
    rng: Generator, defect: Defect | None = None, *, size_px: int = REFERENCE_PX
) -> tuple[ImageArray, MaskArray]:
    """Draws one part.

    Two generators seeded alike give the same part: with and without a defect, exactly the mask's pixels differ.

    Args:
        rng: Decides everything that varies. Calling again with the same generator draws another part.
        defect: What is wrong with the part, or None for a good one.
        size_px: Width and height of the image, at least 128.

    Returns:
        The image, uint8 [size, size, 3] RGB, and the defect's mask, bool [size, size] (all False for a good part).

    Raises:
        ValueError: The size is below 128, or the defect is not one of DEFECTS.
    """
    if size_px < 128:
        raise ValueError(f"size_px is {size_px}, expected at least 128: the stamped letters would not be drawn.")
    if defect is not None and defect not in DEFECTS:
        raise ValueError(f"Unknown defect {defect!r}: choose one of {', '.join(DEFECTS)}.")
    part_rng, defect_rng, sensor_rng = rng.spawn(3)
    part = _Part.draw(part_rng)
    texture_seed = int(part.texture.integers(2**63))
    grid = _Grid.build(size_px, part.centre_xy, part.rotation_rad)

    radiance = _radiance(part, grid, np.random.default_rng(texture_seed))
    mask = np.zeros(radiance.shape[:2], dtype=np.bool_)
    if defect is not None:
        broken = _BREAKERS[defect](part, defect_rng)
        changed = _radiance(broken, grid, np.random.default_rng(texture_seed))
        mask = np.abs(changed - radiance).max(axis=2) > VISIBLE
        radiance[mask] = changed[mask]
    return _expose(radiance, grid, part, sensor_rng), mask


# --- light and matter -------------------------------------------------------------------------------------


def _radiance(part: _Part, grid: _Grid, rng: Generator) -> Field:
    """What reaches the lens: float32 [size, size, 3], about 0 to 1."""
    belt = _belt(grid, part, rng)
    streaks, glints = _brushing(grid, rng), _brushing(grid, rng)
    plain = _silhouette(grid, replace(part, rim=None))
    silhouette = _silhouette(grid, part)
    belt = belt * (1 - np.float32(0.62) * _shadow(plain, grid, part.key))[..., None]

    bare = part.bare(grid)
    height = _relief(grid, part)
    slope_y, slope_x = (_blur(_f32(slope * grid.scale), 0.6 * grid.scale) for slope in np.gradient(height))
    metal = _metal(grid, part, (slope_x, slope_y), streaks, glints, bare)
    if part.film is not None:
        # Oil and rust take the highlight first and tint what is left.
        film = part.film(grid)[..., None]
        edge = np.abs(cv2.Laplacian(film[..., 0], cv2.CV_32F, ksize=5))[..., None].clip(0, 1)
        dirt = metal * np.array([0.50, 0.38, 0.26], np.float32) + np.array([0.035, 0.022, 0.01], np.float32)
        metal = _f32(metal + (dirt - metal) * film - 0.06 * edge * film)
    scene = belt + (metal - belt) * silhouette[..., None]
    return _blur(scene, 0.55 * grid.scale).clip(0, None)


def _metal(grid: _Grid, part: _Part, slopes: tuple[Field, Field], streaks: Field, glints: Field, bare: Field) -> Field:
    """Brushed steel: soft diffuse light, and a highlight that is narrow along the brushing and wide across it."""
    safe_radius = np.maximum(grid.radius, 1)
    tangent_x, tangent_y = -grid.y / safe_radius, grid.x / safe_radius
    slope_x, slope_y = slopes
    along = slope_x * tangent_x + slope_y * tangent_y
    across = slope_x * tangent_y - slope_y * tangent_x
    steepness = np.sqrt(1 + slope_x**2 + slope_y**2)
    brushed = 1 - bare
    shade = np.full_like(grid.x, 0.10)  # the hall's own light, from everywhere
    for lamp in (part.key, part.fill):
        light_x, light_y, light_z = lamp.direction
        half_x, half_y, half_z = lamp.halfway
        lambert = ((light_z - slope_x * light_x - slope_y * light_y) / steepness).clip(0, None)
        off_along = (half_x * tangent_x + half_y * tangent_y + half_z * along) / np.sqrt(1 + along**2)
        off_across = (half_x * tangent_y - half_y * tangent_x + half_z * across) / np.sqrt(1 + across**2)
        off_along = off_along + 0.05 * streaks * brushed
        highlight = np.exp(-0.5 * (off_along / (0.105 + 0.2 * bare)) ** 2 - 0.5 * (off_across / 0.42) ** 2)
        shade += lamp.strength * (0.17 * lambert + 0.74 * highlight)
    shade *= 1 + (0.07 * streaks + 0.05 * glints) * brushed
    for text, angle_deg in STAMPS:
        shade *= 1 - 0.42 * _stamp(grid, text, math.radians(angle_deg))  # little light reaches the bottom
    return _f32(shade[..., None] * np.array([0.985, 1.0, 1.02], np.float32))


def _belt(grid: _Grid, part: _Part, rng: Generator) -> Field:
    """A dark rubber belt with a fine diamond weave; it moved on since the last image, so its phase is free."""
    x, y = grid.x + part.centre_xy[0], grid.y + part.centre_xy[1]
    phase_x, phase_y = rng.uniform(0, 2 * math.pi, size=2)
    period = 2 * math.pi / 15.0
    weave = np.sin((x + y) * period + phase_x) * np.sin((x - y) * period + phase_y)
    cloth = _blur(rng.standard_normal(grid.x.shape, dtype=np.float32), 0.9 * grid.scale) * grid.scale
    cloud = _stretch(rng.standard_normal((9, 9), dtype=np.float32), grid)
    level = 0.060 + 0.013 * weave + 0.012 * cloth + 0.003 * cloud
    return _f32(level[..., None] * np.array([0.94, 1.0, 1.12], np.float32))


def _brushing(grid: _Grid, rng: Generator) -> Field:
    """Scratch-fine noise drawn out along the circle, about unit variance."""
    rings, steps = 440, 1024
    noise = rng.standard_normal((rings, steps), dtype=np.float32)
    total = np.zeros_like(noise)
    for length, weight in ((61, 0.5), (161, 0.65), (401, 0.8)):
        wrapped = np.concatenate([noise[:, -length:], noise, noise[:, :length]], axis=1)
        drawn = _f32(cv2.blur(cv2.blur(wrapped, (length, 1)), (length // 2, 1)))[:, length:-length]
        total += weight * drawn / drawn.std()
        noise = np.roll(noise, 17, axis=0)
    total = _f32(cv2.GaussianBlur(total, (1, 5), 0.75))
    total = np.concatenate([total, total[:, :1]], axis=1) / total.std()
    columns = grid.angle_rad * np.float32(steps / (2 * math.pi))
    rows = (grid.radius * 2).clip(0, rings - 1)
    return _f32(cv2.remap(total, columns, rows, cv2.INTER_LINEAR))


# --- shape ------------------------------------------------------------------------------------------------


def _silhouette(grid: _Grid, part: _Part) -> Field:
    """How much of each pixel is metal: 0 to 1."""
    outside = grid.radius - (OUTER_RADIUS + (part.rim(grid) if part.rim else 0.0))
    distance = np.maximum(outside, BORE_RADIUS - grid.radius)
    for hole in _holes(grid, part):
        distance = np.maximum(distance, HOLE_RADIUS - hole)
    return _f32((0.5 - distance * grid.scale).clip(0, 1))


def _holes(grid: _Grid, part: _Part) -> list[Field]:
    """The distance of every pixel to the centre of each hole that was punched."""
    distances = []
    for index in range(HOLES):
        if part.holes[index]:
            x, y = grid.place(HOLE_CIRCLE, index * 2 * math.pi / HOLES, part.rotation_rad)
            distances.append(np.hypot(grid.x - np.float32(x), grid.y - np.float32(y)))
    return distances


def _relief(grid: _Grid, part: _Part) -> Field:
    """The height of the surface above the belt side, in reference pixels: only its slope is seen."""
    rim = OUTER_RADIUS + (part.rim(grid) if part.rim else 0.0)
    height = -0.85 * (grid.radius - (rim - CHAMFER)).clip(0, CHAMFER)
    height = height - 0.85 * (BORE_RADIUS + CHAMFER - grid.radius).clip(0, CHAMFER)
    for hole in _holes(grid, part):
        height = height - 0.9 * (HOLE_RADIUS + HOLE_CHAMFER - hole).clip(0, HOLE_CHAMFER)
    height = height - 1.1 * np.exp(-(((grid.radius - GROOVE_RADIUS) / 1.5) ** 2))
    for text, angle_deg in STAMPS:
        height = height - STAMP_DEPTH * _stamp(grid, text, math.radians(angle_deg))
    if part.relief is not None:
        height = height + part.relief(grid)
    return _f32(height)


def _stamp(grid: _Grid, text: str, angle_rad: float) -> Field:
    """Letters bent along the circle, 0 to 1, readable from outside the part in the image's lower half too."""
    zoom = 4
    font, letter_scale, stroke = cv2.FONT_HERSHEY_SIMPLEX, 1.15 * zoom, 3 * zoom
    (width, tall), _ = cv2.getTextSize(text, font, letter_scale, stroke)
    margin = 8 * zoom
    canvas = np.zeros((tall + 2 * margin, width + 2 * margin), np.uint8)
    cv2.putText(canvas, text, (margin, margin + tall), font, letter_scale, 255, stroke, cv2.LINE_AA)
    letters = _blur(_f32(canvas / 255), 0.8 * zoom)
    turn = (grid.angle_rad - angle_rad + math.pi) % (2 * math.pi) - math.pi
    upright = 1 if math.sin(angle_rad) > 0 else -1
    u = canvas.shape[1] / 2 - upright * turn * HOLE_CIRCLE * zoom
    v = canvas.shape[0] / 2 - upright * (grid.radius - HOLE_CIRCLE) * zoom
    return _f32(cv2.remap(letters, _f32(u), _f32(v), cv2.INTER_LINEAR))


def _shadow(silhouette: Field, grid: _Grid, key: _Light) -> Field:
    """The part's soft shadow on the belt, 0 to 1: it lies on the side away from the lamp."""
    thickness = 13.0 * grid.scale
    x, y, z = key.direction
    move = np.array([[1, 0, -x / z * thickness], [0, 1, -y / z * thickness]], np.float32)
    return _blur(_f32(cv2.warpAffine(silhouette, move, silhouette.shape[::-1])), 5.0 * grid.scale)


# --- what can be wrong ------------------------------------------------------------------------------------


def _free_spot(rng: Generator) -> tuple[float, float]:
    """A place on the flat ring, as radius and angle, clear of the bevels."""
    return rng.uniform(104, 178), rng.uniform(0, 2 * math.pi)


def _scratch(part: _Part, rng: Generator) -> _Part:
    radius, angle = _free_spot(rng)
    # Along the circle a scratch would be one more streak of the brushing: it runs at 25 degrees or more to it.
    heading = angle + part.rotation_rad + rng.choice([-1, 1]) * rng.uniform(0.0, math.radians(65))
    length, bend, width = rng.uniform(55, 95), rng.uniform(-14, 14), rng.uniform(1.4, 2.4)
    depth = rng.uniform(1.3, 2.0)
    steps = np.linspace(-0.5, 0.5, 24)

    def groove(grid: _Grid) -> Field:
        x, y = grid.place(radius, angle, part.rotation_rad)
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
        return _f32(taper * np.exp(-((nearest / width) ** 2)))

    return replace(part, relief=lambda grid: -depth * groove(grid), bare=lambda grid: 0.9 * groove(grid))


def _dent(part: _Part, rng: Generator) -> _Part:
    radius, angle = _free_spot(rng)
    long, slim, turn = rng.uniform(13, 21), rng.uniform(9, 13), rng.uniform(0, math.pi)
    depth = rng.uniform(4.0, 6.5)

    def crater(grid: _Grid) -> Field:
        x, y = grid.place(radius, angle, part.rotation_rad)
        u = (grid.x - x) * math.cos(turn) + (grid.y - y) * math.sin(turn)
        v = -(grid.x - x) * math.sin(turn) + (grid.y - y) * math.cos(turn)
        reach = (u / long) ** 2 + (v / slim) ** 2
        # A pit with the low wall that displaced metal throws up around it.
        return _f32(depth * (-np.exp(-1.6 * reach) + 0.25 * np.exp(-2.5 * (np.sqrt(reach) - 1.25) ** 2)))

    return replace(part, relief=crater)


def _stain(part: _Part, rng: Generator) -> _Part:
    radius, angle = _free_spot(rng)
    drops = [(rng.normal(0, 11), rng.normal(0, 11), rng.uniform(9, 20)) for _ in range(6)]
    strength = rng.uniform(0.55, 0.85)
    ripple = rng.standard_normal((48, 48), dtype=np.float32)

    def film(grid: _Grid) -> Field:
        x, y = grid.place(radius, angle, part.rotation_rad)
        pool = np.zeros_like(grid.x)
        for offset_x, offset_y, reach in drops:
            pool += np.exp(-((grid.x - x - offset_x) ** 2 + (grid.y - y - offset_y) ** 2) / reach**2)
        uneven = _stretch(ripple, grid)
        return _f32(strength * ((pool * (1 + 0.16 * uneven) - 0.6) * 2.2).clip(0, 1))

    return replace(part, film=film)


def _burr(part: _Part, rng: Generator) -> _Part:
    angle, half_width = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(4.5, 8.5))
    teeth, crests = rng.uniform(0.35, 1.0, size=7), rng.uniform(0.2, 1.0, size=19)
    reach = rng.uniform(8, 14)

    def bump(grid: _Grid) -> Field:
        turn = (grid.angle_rad - angle + math.pi) % (2 * math.pi) - math.pi
        ragged = np.interp(turn / half_width, np.linspace(-1, 1, 9), [0, *teeth, 0])
        return _f32(ragged)

    def torn(grid: _Grid) -> Field:
        near_rim = ((grid.radius - (OUTER_RADIUS - 0.8 * CHAMFER)) / 5).clip(0, 1)
        return _f32(bump(grid) * near_rim)

    def lip(grid: _Grid) -> Field:
        turn = (grid.angle_rad - angle + math.pi) % (2 * math.pi) - math.pi
        folds = np.interp(turn / half_width, np.linspace(-1, 1, crests.size), crests)
        return _f32(8.0 * torn(grid) * folds)

    return replace(
        part,
        rim=lambda grid: reach * bump(grid),
        bare=torn,
        relief=lip,
    )


def _missing_hole(part: _Part, rng: Generator) -> _Part:
    missing = int(rng.integers(HOLES))
    return replace(part, holes=tuple(index != missing for index in range(HOLES)))


_BREAKERS: dict[Defect, Callable[[_Part, Generator], _Part]] = {
    "scratch": _scratch,
    "dent": _dent,
    "stain": _stain,
    "burr": _burr,
    "missing_hole": _missing_hole,
}


# --- camera -----------------------------------------------------------------------------------------------


def _expose(radiance: Field, grid: _Grid, part: _Part, rng: Generator) -> ImageArray:
    """Lens fall-off, exposure, white balance, shot and read noise, the display curve, eight bits."""
    off_axis = np.hypot(grid.x + part.centre_xy[0], grid.y + part.centre_xy[1]) / (REFERENCE_PX / 2)
    exposure = part.gain * (1 - 0.11 * off_axis**2)
    balance = np.array([1 + part.warmth, 1, 1 - part.warmth], np.float32)
    signal = radiance * exposure[..., None] * balance
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    signal = signal + noise * np.sqrt(2.0e-5 + 4.0e-5 * signal)
    # A soft shoulder instead of hard clipping keeps the brushing visible inside the highlight.
    toned = 1.06 * signal / (signal + 0.32) * (1 + 0.12 * signal)
    return np.asarray(toned.clip(0, 1) * 255 + 0.5, np.uint8)


def _blur(values: Field, sigma_px: float) -> Field:
    return _f32(cv2.GaussianBlur(values, (0, 0), max(sigma_px, 0.2)))


def _stretch(coarse: Field, grid: _Grid) -> Field:
    return _f32(cv2.resize(coarse, grid.x.shape, interpolation=cv2.INTER_CUBIC))


def _f32(values: npt.ArrayLike) -> Field:
    return np.asarray(values, np.float32)


# --- the folder -------------------------------------------------------------------------------------------


def write_dataset(
    folder: Path, *, train: int, test: int, seed: int, size_px: int = REFERENCE_PX, quality: int = 95
) -> None:
    """Writes an MVTec-layout folder: `train/good`, `test/good`, `test/<defect>`, `ground_truth/<defect>`.

    Image k of a kind depends on the seed, the kind and k alone, so a larger folder starts with the smaller one.

    Args:
        folder: Where to write; made if missing.
        train: Number of good parts to learn from.
        test: Number of test images of each kind, good and every defect.
        seed: Any whole number from 0.
        size_px: Width and height of every image.
        quality: JPEG quality, 1 to 100. Masks are PNG.
    """
    kinds: list[tuple[str, Defect | None, int]] = [("train/good", None, train), ("test/good", None, test)]
    kinds += [(f"test/{defect}", defect, test) for defect in DEFECTS]
    with Progress(transient=True) as progress:
        task = progress.add_task("Drawing parts", total=sum(count for _, _, count in kinds))
        for kind, (place, defect, count) in enumerate(kinds):
            (folder / place).mkdir(parents=True, exist_ok=True)
            if defect is not None:
                (folder / "ground_truth" / defect).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                image, mask = render_part(np.random.default_rng([seed, kind, index]), defect, size_px=size_px)
                _write(folder / place / f"{index:03d}.jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
                if defect is not None:
                    _write(folder / "ground_truth" / defect / f"{index:03d}_mask.png", mask.astype(np.uint8) * 255, [])
                progress.advance(task)


def _write(path: Path, pixels: ImageArray, options: list[int]) -> None:
    encoded, data = cv2.imencode(path.suffix, pixels, options)
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode {path.name}: reinstall opencv-python-headless.")
    path.write_bytes(data.tobytes())


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write the MVTec-layout folder.")],
    train: Annotated[int, typer.Option(min=1, help="Good parts to learn from.")] = 120,
    test: Annotated[int, typer.Option(min=0, help="Test images of each kind.")] = 12,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[int, typer.Option(min=128, help="Width and height in pixels.")] = REFERENCE_PX,
) -> None:
    """Draw the demo product: good washers, and washers with five kinds of defects with exact masks."""
    write_dataset(folder, train=train, test=test, seed=seed, size_px=size)


if __name__ == "__main__":
    typer.run(main)
