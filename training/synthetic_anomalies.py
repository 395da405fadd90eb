"""Synthetic anomalies: local changes of normal images, made from the images themselves, with exact masks.

The papers call them pseudo-anomalies. Every recipe takes a float32 image `[H, W, 3]` (RGB in [0, 1], before any
normalisation) and a random generator, and returns the changed image, clamped to [0, 1], and a bool mask `[H, W]`.
Outside the mask the image is unchanged bit for bit. No external images are used.

See docs/methods.md, section *Shared parts*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # [H, W, 3], RGB in [0, 1]
Mask = NDArray[np.bool_]  # [H, W]
Rng = np.random.Generator
Recipe = Callable[[Image, Rng], tuple[Image, Mask]]


def perlin_self(image: Image, rng: Rng) -> tuple[Image, Mask]:
    """Fill blobs of Perlin noise with shuffled and recoloured cells of the same image.

    Source: the mask follows DRAEM (Zavrtanik et al., ICCV 2021); filling it from the same image instead of a texture
    data set is our own, after NSA (Schlüter et al., ECCV 2022) and MemSeg (Yang et al., 2022).
    """
    height, width = image.shape[:2]
    mask = _perlin_mask(height, width, rng)
    source = _shuffle_cells(image, rng)
    return _blend(image, source, mask, opacity=rng.uniform(0.2, 1.0), rng=rng)


def cut_paste(image: Image, rng: Rng) -> tuple[Image, Mask]:
    """Paste a recoloured and rotated piece of the image at another location.

    Source: DRD's code. A size for each image, the change of colour, the rotation and the clamping are our own: an
    unchanged piece of a texture is not an anomaly.
    """
    side = min(image.shape[:2])
    # DRD's three size classes with their probabilities: large 0.2, medium 0.3, small 0.5.
    low, high = _CUT_SIZES[rng.choice(3, p=(0.2, 0.3, 0.5))]
    patch_hw = (side * rng.uniform(low, high), side * rng.uniform(low, high))
    return _paste(image, patch_hw, rng, target=_random_location(image, rng))


def scar(image: Image, rng: Rng) -> tuple[Image, Mask]:
    """Paste a long, thin, recoloured piece, which resembles a scratch, a crack or a hair.

    Source: CutPaste (Li et al., CVPR 2021), the variant "scar".
    """
    side = min(image.shape[:2])
    patch_hw = (side * rng.uniform(0.008, 0.03), side * rng.uniform(0.06, 0.35))
    return _paste(image, patch_hw, rng, target=_random_location(image, rng))


def faint(image: Image, rng: Rng) -> tuple[Image, Mask]:
    """Paste a small piece or scar with a weak change of colour at a structured location.

    Used to evaluate maps, not to train: a bright patch on an empty background is found with any setting, a scratch on
    the thread of a screw is not. Source: our own.
    """
    side, out, mask = min(image.shape[:2]), image, np.zeros(image.shape[:2], np.bool_)
    for _ in range(_MAX_TRIES):
        if rng.random() < 0.5:
            patch_hw = (side * rng.uniform(0.02, 0.08), side * rng.uniform(0.02, 0.08))
        else:
            patch_hw = (side * rng.uniform(0.006, 0.02), side * rng.uniform(0.04, 0.2))
        out, mask = _paste(image, patch_hw, rng, target=structured_location(image, rng), strength=1 / 3)
        if mask.any() and np.abs(out - image)[mask].mean() > _MIN_CHANGE:
            break
    return out, mask


def published_cut_paste(image: Image, rng: Rng) -> tuple[Image, Mask]:
    """Apply DRD's published recipe: a square piece is pasted upright at another location, plus 0.2 times the image.

    Source: DRD's code, function `cutpaste`. The clamping to [0, 1] and a size for each image instead of one for the
    whole batch are our own.
    """
    height, width = image.shape[:2]
    low, high = _PUBLISHED_SIDES[rng.choice(3, p=(0.2, 0.3, 0.5))]
    side = max(2, min(round(rng.uniform(low, high) * min(height, width) / 256), height - 1, width - 1))
    top, left = int(rng.integers(height - side)), int(rng.integers(width - side))
    y, x = int(rng.integers(height - side)), int(rng.integers(width - side))
    mask = np.zeros((height, width), np.bool_)
    mask[y : y + side, x : x + side] = True
    out = image.copy()
    target = out[y : y + side, x : x + side]
    target[:] = np.clip(image[top : top + side, left : left + side] + np.float32(0.2) * target, 0, 1)
    return out, mask


RECIPES: tuple[Recipe, ...] = (perlin_self, cut_paste, scar)
PUBLISHED_RECIPES: tuple[Recipe, ...] = (published_cut_paste,)
FAINT_RECIPES: tuple[Recipe, ...] = (faint,)


def synthetic_anomaly(image: NDArray[np.uint8], rng: Rng, recipes: Sequence[Recipe] = RECIPES) -> tuple[Image, Mask]:
    """Apply one recipe, drawn at random.

    Args:
        image: uint8 `[H, W, 3]`, RGB.
        rng: The only source of randomness.
        recipes: The recipes to draw from.

    Returns:
        The changed image, float32 `[H, W, 3]` in [0, 1], and the mask, bool `[H, W]`, which can be empty.
    """
    recipe = recipes[int(rng.integers(len(recipes)))]
    return recipe(image.astype(np.float32) / np.float32(255), rng)


# --- building blocks -------------------------------------------------------------------------------------------

_PUBLISHED_SIDES = ((150, 200), (64, 100), (10, 32))  # in pixels of an image of 256
_CUT_SIZES = ((0.35, 0.6), (0.2, 0.35), (0.04, 0.2))  # in units of the shorter side
_MIN_CHANGE = 0.03  # mean change of a faint anomaly's pixels, about the smallest that is visible
_MAX_TRIES = 20  # a piece that resembles the pixels below it is drawn again, at most this often
_EMPTY_SHARE = 0.05  # weight of a location without structure, in units of the mean weight


def structured_location(image: Image, rng: Rng) -> tuple[float, float]:
    """Draw a location with image structure, which is on the part rather than on the background.

    The density is the gradient magnitude, smoothed over 1/64 of the shorter side: uniform on a texture, almost zero
    on a plain background. A foreground mask would need a threshold and would miss dark parts. Source: our own.

    Args:
        image: float32 `[H, W, 3]` in [0, 1].
        rng: The only source of randomness.

    Returns:
        x and y in pixels.
    """
    gray = image.mean(2)
    edges = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    density = cv2.GaussianBlur(edges, (0, 0), min(image.shape[:2]) / 64)
    total = np.cumsum(density + max(_EMPTY_SHARE * float(density.mean()), 1e-9), dtype=np.float64)
    chosen = int(np.searchsorted(total, rng.uniform(0, total[-1])))
    y, x = divmod(min(chosen, total.size - 1), image.shape[1])
    return float(x), float(y)


def _random_location(image: Image, rng: Rng) -> tuple[float, float]:
    """Return a structured location or, with probability 0.5, any location; anomalies beside the part are easy."""
    if rng.random() < 0.5:
        return structured_location(image, rng)
    return rng.uniform(0, image.shape[1]), rng.uniform(0, image.shape[0])


def _blend(
    image: Image, source: Image, mask: Mask, *, opacity: float, rng: Rng, strength: float = 1.0
) -> tuple[Image, Mask]:
    """Blend the recoloured source into the masked pixels; only these are computed, because most masks are small."""
    alpha = np.float32(opacity)
    colour = _jitter_colour(source[mask], image.mean(dtype=np.float32), rng, strength)
    out = image.copy()
    out[mask] = np.clip(alpha * colour + (1 - alpha) * image[mask], 0, 1)
    return out, mask


def _paste(
    image: Image, patch_hw: tuple[float, float], rng: Rng, *, target: tuple[float, float], strength: float = 1.0
) -> tuple[Image, Mask]:
    """Blend the randomly rotated, shifted and recoloured image into a rotated rectangle centred at `target`, (x, y)."""
    height, width = image.shape[:2]
    ph, pw = max(2.0, patch_hw[0]), max(2.0, patch_hw[1])
    source = (rng.uniform(0, width), rng.uniform(0, height))
    angle = rng.uniform(-45, 45)
    matrix = cv2.getRotationMatrix2D(source, angle, 1.0)
    matrix[:, 2] += np.subtract(target, source)
    moved: Image = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )  # type: ignore[assignment]
    corners = cv2.boxPoints((target, (pw, ph), rng.uniform(-90, 90)))
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(canvas, np.round(corners).astype(np.int32), 1)
    return _blend(image, moved, canvas.astype(bool), opacity=1.0, strength=strength, rng=rng)


def _jitter_colour(colours: NDArray[np.float32], middle: np.float32, rng: Rng, strength: float) -> NDArray[np.float32]:
    """Change contrast, brightness and tint of `[K, 3]`, so that a piece differs from the normal parts of the image."""
    contrast = np.float32(1 + strength * rng.uniform(-0.4, 0.4))
    shift = np.float32(strength * rng.uniform(0.05, 0.35) * rng.choice((-1, 1)))
    tint = (strength * rng.uniform(-0.1, 0.1, 3)).astype(np.float32)
    return (colours - middle) * contrast + (middle + shift + tint)


def _shuffle_cells(image: Image, rng: Rng, grid: int = 8) -> Image:
    """Shuffle grid x grid cells of the image; pixels at the border that fill no cell stay."""
    ch, cw = image.shape[0] // grid, image.shape[1] // grid
    cells = image[: ch * grid, : cw * grid].reshape(grid, ch, grid, cw, 3).transpose(0, 2, 1, 3, 4)
    shuffled = cells.reshape(grid * grid, ch, cw, 3)[rng.permutation(grid * grid)]
    out = image.copy()
    out[: ch * grid, : cw * grid] = (
        shuffled.reshape(grid, grid, ch, cw, 3).transpose(0, 2, 1, 3, 4).reshape(ch * grid, cw * grid, 3)
    )
    return out


def _perlin_mask(height: int, width: int, rng: Rng) -> Mask:
    """Threshold Perlin noise at 0.5 and rotate it by up to 90 degrees; resolutions 2^0..2^5 per axis as in DRAEM."""
    # Computed at half the size: the noise is smooth, and only its contour at 0.5 is used.
    noise = _perlin(
        (height + 1) // 2, (width + 1) // 2, int(2 ** rng.integers(0, 6)), int(2 ** rng.integers(0, 6)), rng
    )
    matrix = cv2.getRotationMatrix2D((width / 4, height / 4), rng.uniform(-90, 90), 2.0)
    matrix[:, 2] += np.array((width / 4, height / 4))
    rotated = cv2.warpAffine(noise, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(rotated > 0.5)


def _perlin(height: int, width: int, rows: int, columns: int, rng: Rng) -> NDArray[np.float32]:
    """Compute gradient noise in about [-1, 1] with rows x columns cells; the size need not be a multiple of them."""
    angles = rng.uniform(0, 2 * math.pi, (rows + 1, columns + 1)).astype(np.float32)
    gx, gy = np.cos(angles), np.sin(angles)
    y = np.linspace(0, rows, height, endpoint=False, dtype=np.float32)
    x = np.linspace(0, columns, width, endpoint=False, dtype=np.float32)
    yi, xi = y.astype(np.intp), x.astype(np.intp)
    fy, fx = (y - yi)[:, None], (x - xi)[None, :]

    def corner(dy: int, dx: int) -> NDArray[np.float32]:
        index = np.ix_(yi + dy, xi + dx)
        value: NDArray[np.float32] = gx[index] * (fx - dx) + gy[index] * (fy - dy)
        return value

    ease_y, ease_x = _fade(fy), _fade(fx)
    top = corner(0, 0) * (1 - ease_x) + corner(0, 1) * ease_x
    bottom = corner(1, 0) * (1 - ease_x) + corner(1, 1) * ease_x
    noise = np.float32(math.sqrt(2)) * (top * (1 - ease_y) + bottom * ease_y)
    return np.asarray(noise, np.float32)


def _fade(t: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply Perlin's smoothing polynomial 6t^5 - 15t^4 + 10t^3."""
    return t * t * t * (t * (t * 6 - 15) + 10)
