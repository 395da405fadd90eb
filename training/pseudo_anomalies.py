"""Defects painted into good images, from the images themselves: no external data.

Every recipe takes float32 `[H, W, 3]` in [0, 1], before any normalisation, and returns the changed image, clamped to
[0, 1], with the exact mask of where it was changed: outside the mask not one bit differs.
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
    """Blobs of Perlin noise filled with the image's own shuffled and recoloured cells.

    Source: mask [R] DRAEM; filling from the own image instead of a texture collection our own (after NSA, MemSeg).
    """
    height, width = image.shape[:2]
    mask = _perlin_mask(height, width, rng)
    source = _shuffle_cells(image, rng)
    return _paint(image, source, mask, opacity=rng.uniform(0.2, 1.0), rng=rng)


def cut_paste(image: Image, rng: Rng) -> tuple[Image, Mask]:
    """A piece of the image, recoloured and turned, pasted somewhere else.

    Source: [C] DRD; per-image size, colour, rotation and clamping are our own: an unchanged piece of a texture is no
    defect.
    """
    side = min(image.shape[:2])
    # DRD's three size classes (of 256): large .2, middle .3, small .5
    low, high = _CUT_SIZES[rng.choice(3, p=(0.2, 0.3, 0.5))]
    patch_hw = (side * rng.uniform(low, high), side * rng.uniform(low, high))
    return _paste(image, patch_hw, rng, target=_anywhere_or_structured(image, rng))


def scar(image: Image, rng: Rng) -> tuple[Image, Mask]:
    """A long thin piece: scratch, crack or hair. Source: [P] CutPaste (scar)."""
    side = min(image.shape[:2])
    patch_hw = (side * rng.uniform(0.008, 0.03), side * rng.uniform(0.06, 0.35))
    return _paste(image, patch_hw, rng, target=_anywhere_or_structured(image, rng))


def faint(image: Image, rng: Rng) -> tuple[Image, Mask]:
    """A small piece or scar in nearly the colours of its place, where there is something to be seen.

    Made for judging and not for learning: every detector finds a bright patch on an empty background, but only a good
    one finds a scratch on the thread of a screw. Source: our own.
    """
    side, out, mask = min(image.shape[:2]), image, np.zeros(image.shape[:2], np.bool_)
    for _ in range(_TRIES):
        if rng.random() < 0.5:
            patch_hw = (side * rng.uniform(0.02, 0.08), side * rng.uniform(0.02, 0.08))
        else:
            patch_hw = (side * rng.uniform(0.006, 0.02), side * rng.uniform(0.04, 0.2))
        out, mask = _paste(image, patch_hw, rng, target=structured_place(image, rng), strength=1 / 3)
        if mask.any() and np.abs(out - image)[mask].mean() > _LEAST_CHANGE:
            break
    return out, mask


def published_cut_paste(image: Image, rng: Rng) -> tuple[Image, Mask]:
    """DRD's own recipe: a square piece of the image pasted upright elsewhere, brightened by a fifth of what lies below.

    Source: [C] DRD `cutpaste`; the clamping to [0, 1] is our own, because a camera has no brighter white. One size for
    each image instead of one for the whole batch.
    """
    height, width = image.shape[:2]
    low, high = _PUBLISHED_SIDES[rng.choice(3, p=(0.2, 0.3, 0.5))]
    side = max(2, min(round(rng.uniform(low, high) * min(height, width) / 256), height - 1, width - 1))
    top, left = int(rng.integers(height - side)), int(rng.integers(width - side))
    y, x = int(rng.integers(height - side)), int(rng.integers(width - side))
    mask = np.zeros((height, width), np.bool_)
    mask[y : y + side, x : x + side] = True
    out = image.copy()
    place = out[y : y + side, x : x + side]
    place[:] = np.clip(image[top : top + side, left : left + side] + np.float32(0.2) * place, 0, 1)
    return out, mask


RECIPES: tuple[Recipe, ...] = (perlin_self, cut_paste, scar)
PUBLISHED_RECIPES: tuple[Recipe, ...] = (published_cut_paste,)
FAINT_RECIPES: tuple[Recipe, ...] = (faint,)


def pseudo_anomaly(image: NDArray[np.uint8], rng: Rng, recipes: Sequence[Recipe] = RECIPES) -> tuple[Image, Mask]:
    """Applies one recipe, drawn at random.

    Args:
        image: uint8 `[H, W, 3]`, RGB.
        rng: the only source of chance.
        recipes: to draw from.

    Returns:
        float32 `[H, W, 3]` in [0, 1] and bool `[H, W]`, which may be empty by chance.
    """
    recipe = recipes[int(rng.integers(len(recipes)))]
    return recipe(image.astype(np.float32) / np.float32(255), rng)


# --- parts -----------------------------------------------------------------------------------------------------

_PUBLISHED_SIDES = ((150, 200), (64, 100), (10, 32))  # pixels of 256
_CUT_SIZES = ((0.35, 0.6), (0.2, 0.35), (0.04, 0.2))  # of the shorter side
_LEAST_CHANGE = 0.03  # mean change of a faint defect's pixels that an eye can just tell
_TRIES = 20  # a piece that happens to look like its place is painted anew, this often
_EMPTY_SHARE = 0.05  # weight of an entirely empty place, of the mean weight


def structured_place(image: Image, rng: Rng) -> tuple[float, float]:
    """A place (x, y) in pixels, drawn where the image has structure: on the part rather than beside it.

    The density is the gradient's length, smoothed over a 64th of the side: even on a texture, and next to nothing on a
    background. Softer than a foreground mask, which would need a threshold and would lose dark parts.
    """
    gray = image.mean(2)
    edges = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    density = cv2.GaussianBlur(edges, (0, 0), min(image.shape[:2]) / 64)
    total = np.cumsum(density + max(_EMPTY_SHARE * float(density.mean()), 1e-9), dtype=np.float64)
    chosen = int(np.searchsorted(total, rng.uniform(0, total[-1])))
    y, x = divmod(min(chosen, total.size - 1), image.shape[1])
    return float(x), float(y)


def _anywhere_or_structured(image: Image, rng: Rng) -> tuple[float, float]:
    """Half of the defects anywhere, half where there is structure: a defect beside the part is learnt soon enough."""
    if rng.random() < 0.5:
        return structured_place(image, rng)
    return rng.uniform(0, image.shape[1]), rng.uniform(0, image.shape[0])


def _paint(
    image: Image, source: Image, mask: Mask, *, opacity: float, rng: Rng, strength: float = 1.0
) -> tuple[Image, Mask]:
    """Shows the recoloured source through the mask. Only masked pixels are computed: most masks are small."""
    alpha = np.float32(opacity)
    colour = _jitter_colour(source[mask], image.mean(dtype=np.float32), rng, strength)
    out = image.copy()
    out[mask] = np.clip(alpha * colour + (1 - alpha) * image[mask], 0, 1)
    return out, mask


def _paste(
    image: Image, patch_hw: tuple[float, float], rng: Rng, *, target: tuple[float, float], strength: float = 1.0
) -> tuple[Image, Mask]:
    """Moves the whole recoloured image by a random turn and shift and shows it through a turned rectangle at x, y."""
    height, width = image.shape[:2]
    ph, pw = max(2.0, patch_hw[0]), max(2.0, patch_hw[1])
    source = (rng.uniform(0, width), rng.uniform(0, height))
    turn = rng.uniform(-45, 45)
    matrix = cv2.getRotationMatrix2D(source, turn, 1.0)
    matrix[:, 2] += np.subtract(target, source)
    moved: Image = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )  # type: ignore[assignment]
    corners = cv2.boxPoints((target, (pw, ph), rng.uniform(-90, 90)))
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(canvas, np.round(corners).astype(np.int32), 1)
    return _paint(image, moved, canvas.astype(bool), opacity=1.0, strength=strength, rng=rng)


def _jitter_colour(colours: NDArray[np.float32], middle: np.float32, rng: Rng, strength: float) -> NDArray[np.float32]:
    """Contrast, brightness and a tint for `[K, 3]`: enough that a piece is not just a plausible piece of the part."""
    contrast = np.float32(1 + strength * rng.uniform(-0.4, 0.4))
    shift = np.float32(strength * rng.uniform(0.05, 0.35) * rng.choice((-1, 1)))
    tint = (strength * rng.uniform(-0.1, 0.1, 3)).astype(np.float32)
    return (colours - middle) * contrast + (middle + shift + tint)


def _shuffle_cells(image: Image, rng: Rng, grid: int = 8) -> Image:
    """Cuts the image into grid x grid cells and puts them back in another order (the rest at the border stays)."""
    ch, cw = image.shape[0] // grid, image.shape[1] // grid
    cells = image[: ch * grid, : cw * grid].reshape(grid, ch, grid, cw, 3).transpose(0, 2, 1, 3, 4)
    shuffled = cells.reshape(grid * grid, ch, cw, 3)[rng.permutation(grid * grid)]
    out = image.copy()
    out[: ch * grid, : cw * grid] = (
        shuffled.reshape(grid, grid, ch, cw, 3).transpose(0, 2, 1, 3, 4).reshape(ch * grid, cw * grid, 3)
    )
    return out


def _perlin_mask(height: int, width: int, rng: Rng) -> Mask:
    """Perlin noise over 0.5, turned by up to 90 degrees. Source: [R] DRAEM (resolutions 2^0..2^5 per axis)."""
    # Drawn at half the size: the noise is smooth, and only its outline at 0.5 is used.
    noise = _perlin(
        (height + 1) // 2, (width + 1) // 2, int(2 ** rng.integers(0, 6)), int(2 ** rng.integers(0, 6)), rng
    )
    matrix = cv2.getRotationMatrix2D((width / 4, height / 4), rng.uniform(-90, 90), 2.0)
    matrix[:, 2] += np.array((width / 4, height / 4))
    turned = cv2.warpAffine(noise, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned > 0.5)


def _perlin(height: int, width: int, rows: int, columns: int, rng: Rng) -> NDArray[np.float32]:
    """Gradient noise in about [-1, 1] with rows x columns cells; any size, not only multiples of the cells."""
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
    return t * t * t * (t * (t * 6 - 15) + 10)
