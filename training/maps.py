"""Distance maps of feature pyramids, calibrated fusion and smoothing.

Everything in this module becomes part of the exported graph. It therefore takes no Python decision on tensor values,
keeps its constants in buffers, and computes in float32 whatever the precision of the networks: in half precision
`1 - cos` loses its small values and can become negative.

See docs/methods.md, section *Shared parts*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.taps import Tap

_EPS = 1e-6


def cosine_distance(a: Tensor, b: Tensor, energy_floor: Tensor | float = 0.0) -> Tensor:
    """Compute `1 - cos(a, b)` over channels, optionally with an energy floor.

    The energy floor adds a constant channel of that energy (squared length) to both vectors, so that the direction of
    a vector much shorter than the floor has little influence. Without it, the distance is largest on plain
    backgrounds, where the teacher's features are short and their direction is noise.

    Source: the cosine distance is common to all four papers and equals half the squared distance of the l2-normalised
    features (STPM); the energy floor is our own.

    Args:
        a: float `[N, C, H, W]`.
        b: float `[N, C, H, W]`.
        energy_floor: >= 0. 0 is the plain cosine distance; for large values the result approaches the squared
            Euclidean distance divided by `2 * energy_floor`.

    Returns:
        float32 `[N, 1, H, W]` in [0, 2].
    """
    a, b = a.float(), b.float()
    # Half the squared distance of the normalised vectors instead of 1 - dot product: near 0, where normal images lie,
    # the subtraction from 1 would leave only rounding errors, which differ between processors.
    scale_a = (a.square().sum(1, keepdim=True) + energy_floor).sqrt().clamp_min(_EPS).reciprocal()
    scale_b = (b.square().sum(1, keepdim=True) + energy_floor).sqrt().clamp_min(_EPS).reciprocal()
    squared = (a * scale_a - b * scale_b).square().sum(1, keepdim=True) + energy_floor * (scale_a - scale_b).square()
    return 0.5 * squared


def nearest_distance(a: Tensor, b: Tensor, energy_floor: Tensor | float = 0.0) -> Tensor:
    """Compute the smallest `cosine_distance` of each cell of `a` to the 3x3 cells of `b` around it.

    This tolerates features that are reconstructed one cell away from their position. Source: our own.

    Args:
        a: float `[N, C, H, W]`.
        b: float `[N, C, H, W]`; border cells are repeated outside the map.
        energy_floor: See `cosine_distance`.

    Returns:
        float32 `[N, 1, H, W]` in [0, 2].
    """
    a, b = a.float(), b.float()
    height, width = a.shape[-2:]
    scale_a = (a.square().sum(1, keepdim=True) + energy_floor).sqrt().clamp_min(_EPS).reciprocal()
    scale_b = (b.square().sum(1, keepdim=True) + energy_floor).sqrt().clamp_min(_EPS).reciprocal()
    # The floor is appended as a channel, so that a shift of `b` moves it as well.
    root = torch.as_tensor(energy_floor, dtype=a.dtype).sqrt()
    a, b = torch.cat([a, root.expand_as(scale_a)], 1) * scale_a, torch.cat([b, root.expand_as(scale_b)], 1) * scale_b
    b = F.pad(b, (1, 1, 1, 1), mode="replicate")
    squared = [
        (a - b[..., y : y + height, x : x + width]).square().sum(1, keepdim=True) for y in range(3) for x in range(3)
    ]
    return 0.5 * torch.stack(squared).amin(0)


class PyramidDistance(nn.Module):
    """Distance maps of two feature pyramids, level by level, with an energy floor relative to each level.

    Source: our own.

    Args:
        levels: Number of levels.
        energy_floor: In units of the mean energy of normal features, see `cosine_distance`.
        nearest: Compare with the nearest of 3x3 cells, see `nearest_distance`.
    """

    scale: Tensor

    def __init__(self, levels: int, energy_floor: float, *, nearest: bool = False) -> None:
        super().__init__()
        self.energy_floor = energy_floor
        self.metric = nearest_distance if nearest else cosine_distance
        self.register_buffer("scale", torch.ones(levels))

    def measure(self, features: Sequence[Tensor]) -> None:
        """Measure the mean energy of each level.

        Args:
            features: Features of normal images, float `[N, C_k, H_k, W_k]` per level.
        """
        for level, feature in enumerate(features):
            # In chunks: a whole pool in float32 would take twice the memory of the cache.
            chunks = [chunk.float().square().sum(1).mean() for chunk in torch.split(feature, 64)]
            self.scale[level] = torch.stack(chunks).mean().clamp_min(1e-20).rsqrt()

    def forward(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
        """Compute the distance maps.

        Args:
            a: float `[N, C_k, H_k, W_k]` per level.
            b: A pyramid of the same shapes.

        Returns:
            float32 `[N, 1, H_k, W_k]` per level, each in [0, 2].
        """
        # Features are scaled to mean energy 1, so that the same floor fits teachers of any scale.
        pairs = enumerate(zip(a, b, strict=True))
        return [self.metric(x * self.scale[k], y * self.scale[k], self.energy_floor) for k, (x, y) in pairs]


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps bilinearly with `align_corners=False`, which keeps cell centres in place and exports exactly.

    Args:
        maps: float `[N, C, H, W]`.
        size: Height and width of the result.

    Returns:
        float `[N, C, *size]`; `maps` itself if it has this size already.
    """
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class LevelFusion(nn.Module):
    """Weighted mean of distance maps, each divided by its standard deviation on normal images.

    Without this division, a map with a large variation everywhere dominates the others. Source: after the map
    normalisation of EfficientAD (Batzner et al., WACV 2024). One scale per map instead of its two quantiles is our
    own: an offset changes no ranking and can make a distance negative.

    Args:
        weights: Ensemble weights, one per map; only their ratios matter.
        names: Names of the maps (`a-z`, `0-9` and `_`) by which bundles explain the fused map; by default `level_1` and
            so on.
    """

    spread: Tensor
    weights: Tensor

    def __init__(self, weights: Sequence[float], names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.names = tuple(names or (f"level_{number}" for number in range(1, len(weights) + 1)))
        if len(self.names) != len(weights):
            raise ValueError(f"{len(weights)} maps have {len(self.names)} names")
        self.parts = nn.ModuleList(Tap() for _ in weights)  # what each map adds to the fused one
        self.total = Tap()
        self.register_buffer("spread", torch.ones(len(weights)))
        self.register_buffer("weights", torch.tensor(weights) / sum(weights))

    def calibrate(self, distances: Sequence[Tensor]) -> None:
        """Measure the standard deviation of each map.

        Args:
            distances: Maps of normal images, float32 `[M, 1, h_k, w_k]` each.
        """
        for level, distance in enumerate(distances):
            self.spread[level] = distance.std().clamp_min(_EPS)

    def forward(self, distances: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Fuse the maps.

        Args:
            distances: float32 `[N, 1, h_k, w_k]` each.
            size: Height and width of the result; by default those of the first map.

        Returns:
            float32 `[N, 1, *size]`, >= 0.
        """
        size = size or (distances[0].shape[-2], distances[0].shape[-1])
        scale = self.weights / self.spread
        pairs = enumerate(zip(self.parts, distances, strict=True))
        levels = [part(resize(distance * scale[k], size)) for k, (part, distance) in pairs]
        fused: Tensor = self.total(torch.stack(levels).sum(0))
        return fused


class Gaussian(nn.Module):
    """Separable Gaussian smoothing of `[N, 1, H, W]` with 'reflect' borders (the edge cell is not repeated).

    Args:
        sigma: Standard deviation, in cells of the map.
        truncate: Radius of the kernel, in standard deviations.
    """

    kernel: Tensor

    def __init__(self, sigma: float, truncate: float = 4.0) -> None:
        super().__init__()
        self.radius = math.ceil(truncate * sigma)
        taps = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (taps / sigma).square())
        # A buffer and not an attribute: exporters reject or duplicate kernels that are created while tracing.
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Smooth float32 `[N, 1, H, W]`; the shape stays the same."""
        r = self.radius
        maps = F.pad(maps, (r, r, r, r), mode="reflect")
        maps = F.conv2d(maps, self.kernel.view(1, 1, 1, -1))
        return F.conv2d(maps, self.kernel.view(1, 1, -1, 1))
