"""From pairs of feature pyramids to one anomaly map: distances, calibrated fusion and smoothing.

Everything here is exported with the graph, so it holds no Python decision on tensor values, keeps its constants in
buffers and computes in float32 whatever the precision of the networks: in half precision `1 - cos` loses its small
values and may turn negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-6


def cosine_distance(a: Tensor, b: Tensor, floor: Tensor | float = 0.0) -> Tensor:
    """Returns `1 - cos(a, b)` over channels: `[N, C, H, W]` x 2 -> float32 `[N, 1, H, W]` in [0, 2].

    Source: [P] all four methods; equal to half the squared distance of the l2-normalised features (STPM).

    Args:
        floor: an energy (squared length) >= 0 that both vectors get in one more, constant channel; our own. The angle
            of a vector that is much shorter than that counts for little. Without it the distance is loudest where a
            image is empty: a teacher's features of a plain background are short, and their direction is noise.
            0 is the plain cosine; towards infinity the distance becomes the squared Euclidean one over 2 * floor.
    """
    a, b = a.float(), b.float()
    # Half the squared distance of the normalised vectors and not 1 - dot product: near 0, where good parts lie, the
    # subtraction from 1 would leave rounding errors alone, and other processors round otherwise.
    per_a = (a.square().sum(1, keepdim=True) + floor).sqrt().clamp_min(_EPS).reciprocal()
    per_b = (b.square().sum(1, keepdim=True) + floor).sqrt().clamp_min(_EPS).reciprocal()
    apart = (a * per_a - b * per_b).square().sum(1, keepdim=True) + floor * (per_a - per_b).square()
    return 0.5 * apart


def nearest_distance(a: Tensor, b: Tensor, floor: Tensor | float = 0.0) -> Tensor:
    """The smallest `cosine_distance` of each cell of `a` to the 3x3 cells of `b` around it.

    Shapes and range as there. What lies one cell beside its place is no defect, whatever rebuilt it a little off.
    """
    a, b = a.float(), b.float()
    height, width = a.shape[-2:]
    per_a = (a.square().sum(1, keepdim=True) + floor).sqrt().clamp_min(_EPS).reciprocal()
    per_b = (b.square().sum(1, keepdim=True) + floor).sqrt().clamp_min(_EPS).reciprocal()
    # The floor's channel goes along, so that a shift moves it too.
    root = torch.as_tensor(floor, dtype=a.dtype).sqrt()
    a, b = torch.cat([a, root.expand_as(per_a)], 1) * per_a, torch.cat([b, root.expand_as(per_b)], 1) * per_b
    b = F.pad(b, (1, 1, 1, 1), mode="replicate")
    apart = [
        (a - b[..., y : y + height, x : x + width]).square().sum(1, keepdim=True) for y in range(3) for x in range(3)
    ]
    return 0.5 * torch.stack(apart).amin(0)


class PyramidDistance(nn.Module):
    """Distance maps of two pyramids, level by level, with an energy floor that fits each level. Our own.

    Args:
        levels: how many.
        floor: of the mean energy of good images' features, see `cosine_distance`.
        nearest: compare with the nearest of 3x3 cells, see `nearest_distance`.
    """

    scale: Tensor

    def __init__(self, levels: int, floor: float, *, nearest: bool = False) -> None:
        super().__init__()
        self.floor = floor
        self.between = nearest_distance if nearest else cosine_distance
        self.register_buffer("scale", torch.ones(levels))

    def measure(self, features: Sequence[Tensor]) -> None:
        """Takes the mean energies from `[N, C_k, H_k, W_k]` per level."""
        for level, feature in enumerate(features):
            # In pieces: a whole pool in float32 would be twice the cache.
            pieces = [piece.float().square().sum(1).mean() for piece in torch.split(feature, 64)]
            self.scale[level] = torch.stack(pieces).mean().clamp_min(1e-20).rsqrt()

    def forward(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
        """Two pyramids of the same shapes -> per level float32 `[N, 1, H_k, W_k]`."""
        # Features of mean energy 1 first: the floor is then an ordinary number, whatever the teacher's scale.
        pairs = enumerate(zip(a, b, strict=True))
        return [self.between(x * self.scale[k], y * self.scale[k], self.floor) for k, (x, y) in pairs]


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize with `align_corners=False` (exports exactly, and cell centres stay where they belong)."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class LevelFusion(nn.Module):
    """Weighted mean of the levels' distance maps, each in units of its spread on good images.

    Without it a level whose distances vary a lot everywhere drowns the others. Source: [R] EfficientAD's map
    normalisation; one spread instead of its two quantiles is our own: an offset would change no ranking and would
    make a distance negative (docs/benchmarks.md).

    Args:
        weights: one per level, finest first; only their proportions matter.
    """

    spread: Tensor
    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(len(weights)))
        self.register_buffer("weights", torch.tensor(weights) / sum(weights))

    def calibrate(self, distances: Sequence[Tensor]) -> None:
        """Measures the constants.

        Args:
            distances: per level, float32 `[M, 1, h_k, w_k]` of good images.
        """
        for level, distance in enumerate(distances):
            self.spread[level] = distance.std().clamp_min(_EPS)

    def forward(self, distances: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Fuses float32 `[N, 1, h_k, w_k]` per level into `[N, 1, *size]`, by default the first level's size."""
        size = size or (distances[0].shape[-2], distances[0].shape[-1])
        scale = self.weights / self.spread
        levels = [resize(distance * scale[k], size) for k, distance in enumerate(distances)]
        return torch.stack(levels).sum(0)


class Gaussian(nn.Module):
    """Separable Gaussian smoothing of `[N, 1, H, W]` with 'reflect' borders (the edge cell is not repeated).

    Args:
        sigma: standard deviation in cells of the map.
        truncate: the kernel ends at this many sigmas.
    """

    kernel: Tensor

    def __init__(self, sigma: float, truncate: float = 4.0) -> None:
        super().__init__()
        self.radius = math.ceil(truncate * sigma)
        taps = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (taps / sigma).square())
        # A buffer, not an attribute: exporters refuse or duplicate kernels that are made while tracing.
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        r = self.radius
        maps = F.pad(maps, (r, r, r, r), mode="reflect")
        maps = F.conv2d(maps, self.kernel.view(1, 1, 1, -1))
        return F.conv2d(maps, self.kernel.view(1, 1, -1, 1))
