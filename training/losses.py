"""Distances between a teacher's and a student's features, as losses: four reductions of one cosine.

Notation of the design notes: L_pt (points), L_flat (whole level), L_chan (channels), L_hm (L_flat with hard mining).
Arguments are `[N, C, H, W]`, the teacher's first; results are float32 scalars, 0 for identical inputs. The target
is detached by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.maps import cosine_distance

_C1, _C2 = 0.01**2, 0.03**2


def point_loss(target: Tensor, student: Tensor) -> Tensor:
    """L_pt: mean over images and places of the cosine distance over channels. Source: [P] RD4AD, [C] DRD, STPM."""
    return cosine_distance(target, student).mean()


def flat_loss(target: Tensor, student: Tensor) -> Tensor:
    """L_flat: one cosine per image, over the whole level at once. Source: [C] RD4AD; steadier than L_pt."""
    return (1 - F.cosine_similarity(target.float().flatten(1), student.float().flatten(1), dim=1)).mean()


def channel_loss(target: Tensor, student: Tensor) -> Tensor:
    """L_chan: one cosine per image and channel, over space. Source: [C] DRD as coded."""
    return (1 - F.cosine_similarity(target.float().flatten(2), student.float().flatten(2), dim=2)).mean()


def hard_mined_loss(target: Tensor, student: Tensor, *, easy_fraction: float, easy_gradient: float = 0.1) -> Tensor:
    """L_hm: the value of L_flat, with the gradient at easy places scaled down.

    Source: [C] Dinomaly (`global_cosine_hm_percent`). The places that the student already reproduces stop pulling,
    so it does not go on to generalise to what it should not reproduce; a factor of 0 is reported as unstable.

    Args:
        easy_fraction: share of the batch's places, in [0, 1), that count as easy (smallest distance).
        easy_gradient: factor on the gradient of the easy places.
    """
    with torch.no_grad():
        distance = cosine_distance(target, student)
        ordered = distance.flatten().sort().values
        limit = ordered[int(easy_fraction * ordered.numel())]
        factor = torch.where(distance < limit, easy_gradient, 1.0)
    mined = student.view_as(student)  # a view, so that other losses on the same features keep their gradient
    if mined.requires_grad:
        mined.register_hook(lambda gradient: gradient * factor.to(gradient.dtype))  # type: ignore[no-untyped-call]
    return flat_loss(target, mined)


def over_levels(
    loss: Callable[[Tensor, Tensor], Tensor], targets: Sequence[Tensor], students: Sequence[Tensor]
) -> Tensor:
    """The sum of a loss over the levels of two pyramids."""
    return torch.stack([loss(target, student) for target, student in zip(targets, students, strict=True)]).sum()


def focal_loss(logits: Tensor, mask: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Mean over places of `-(1 - p)^gamma log p`, p the probability of the truth. Source: [R] DRAEM, gamma 2.

    Args:
        logits: `[N, 1, H, W]` of "defective".
        mask: float32 of the same shape, 1 where defective.
    """
    entropy = F.binary_cross_entropy_with_logits(logits.float(), mask, reduction="none")
    return ((1 - (-entropy).exp()) ** gamma * entropy).mean()


def ramp(step: int, length: int, highest: float) -> float:
    """Rises linearly from 0 at step 0 to `highest` at step `length` and stays there."""
    return highest * min(1.0, step / max(1, length))


def structural_difference(a: Tensor, b: Tensor, window: int) -> Tensor:
    """1 - SSIM over windows side by side: `[N, C, H, W]` x 2 -> float32 `[N, 1, H / window, W / window]` in [0, 2].

    Mean over the colours. Box windows without overlap instead of SSIM's sliding Gaussian: that is what "by regions"
    asks for, and an average pooling in the graph. Source: [P] Wang et al. 2004, constants for a range of 1.

    Args:
        a: images in [0, 1]; H and W multiples of `window`.
        b: what they are compared with.
        window: side of a window, pixels.
    """
    a, b = a.float(), b.float()
    mean_a, mean_b = F.avg_pool2d(a, window), F.avg_pool2d(b, window)
    # Differences of large, nearly equal numbers: rounding may leave a variance slightly below 0.
    var_a = (F.avg_pool2d(a * a, window) - mean_a * mean_a).clamp_min(0)
    var_b = (F.avg_pool2d(b * b, window) - mean_b * mean_b).clamp_min(0)
    cov = F.avg_pool2d(a * b, window) - mean_a * mean_b
    level = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    structure = (2 * cov + _C2) / (var_a + var_b + _C2)
    return 1 - (level * structure).mean(1, keepdim=True)
