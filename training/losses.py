"""Loss functions between the features of a teacher and those of a student.

Four reductions of the cosine distance share one signature: L_pt (`point_loss`, per cell), L_flat (`flat_loss`, per
level), L_chan (`channel_loss`, per channel) and L_hm (`hard_mined_loss`, L_flat with hard mining). The arguments are
float tensors `[N, C, H, W]`, the target first; the result is a float32 scalar, 0 for identical inputs. The caller
detaches the target.

See docs/methods.md, section *Shared parts*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.maps import cosine_distance

_C1, _C2 = 0.01**2, 0.03**2  # SSIM's constants for values in [0, 1]


def point_loss(target: Tensor, student: Tensor) -> Tensor:
    """Compute L_pt, the cosine distance over channels averaged over images and cells.

    Source: RD4AD (Deng & Li, CVPR 2022) as described in its paper; DRD's code; STPM.

    Args:
        target: float `[N, C, H, W]`.
        student: float `[N, C, H, W]`.

    Returns:
        A float32 scalar in [0, 2].
    """
    return cosine_distance(target, student).mean()


def flat_loss(target: Tensor, student: Tensor) -> Tensor:
    """Compute L_flat, one cosine distance per image over the whole level, averaged over images.

    Training with it is more stable than with L_pt. Source: the code of RD4AD (Deng & Li, CVPR 2022).

    Args:
        target: float `[N, C, H, W]`.
        student: float `[N, C, H, W]`.

    Returns:
        A float32 scalar in [0, 2].
    """
    return (1 - F.cosine_similarity(target.float().flatten(1), student.float().flatten(1), dim=1)).mean()


def channel_loss(target: Tensor, student: Tensor) -> Tensor:
    """Compute L_chan, one cosine distance per image and channel over space, averaged.

    Source: DRD's code, which passes a single level to a loss written for lists of levels.

    Args:
        target: float `[N, C, H, W]`.
        student: float `[N, C, H, W]`.

    Returns:
        A float32 scalar in [0, 2].
    """
    return (1 - F.cosine_similarity(target.float().flatten(2), student.float().flatten(2), dim=2)).mean()


def hard_mined_loss(target: Tensor, student: Tensor, *, easy_fraction: float, easy_gradient: float = 0.1) -> Tensor:
    """Compute L_hm: the value of L_flat, with a reduced gradient at the cells that are already reproduced.

    Reducing the gradient of easy cells limits how far the student generalises beyond normal features. A factor of 0
    is reported to be unstable. Source: the code of Dinomaly (Guo et al., CVPR 2025), `global_cosine_hm_percent`.

    Args:
        target: float `[N, C, H, W]`.
        student: float `[N, C, H, W]`.
        easy_fraction: Fraction of the batch's cells, in [0, 1), that count as easy (those with the smallest distance).
        easy_gradient: Factor on the gradient of the easy cells.

    Returns:
        A float32 scalar in [0, 2].
    """
    with torch.no_grad():
        distance = cosine_distance(target, student)
        ordered = distance.flatten().sort().values
        limit = ordered[int(easy_fraction * ordered.numel())]
        factor = torch.where(distance < limit, easy_gradient, 1.0)
    mined = student.view_as(student)  # a view: the hook must not change the gradient of other losses on `student`
    if mined.requires_grad:
        mined.register_hook(lambda gradient: gradient * factor.to(gradient.dtype))  # type: ignore[no-untyped-call]
    return flat_loss(target, mined)


def over_levels(
    loss: Callable[[Tensor, Tensor], Tensor], targets: Sequence[Tensor], students: Sequence[Tensor]
) -> Tensor:
    """Sum a loss over the levels of two feature pyramids.

    Args:
        loss: A function of target and student that returns a scalar.
        targets: One tensor per level.
        students: One tensor per level, with the shapes of `targets`.

    Returns:
        A float32 scalar.
    """
    return torch.stack([loss(target, student) for target, student in zip(targets, students, strict=True)]).sum()


def focal_loss(logits: Tensor, mask: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Compute the focal loss `-(1 - p)^gamma log p`, with p the probability of the true class, averaged over cells.

    Source: Lin et al., ICCV 2017; gamma 2 as in DRAEM (Zavrtanik et al., ICCV 2021).

    Args:
        logits: float `[N, 1, H, W]`, logits of the class "defective".
        mask: float32 `[N, 1, H, W]`, 1 where defective, else 0.
        gamma: Focusing exponent, >= 0.

    Returns:
        A float32 scalar >= 0.
    """
    entropy = F.binary_cross_entropy_with_logits(logits.float(), mask, reduction="none")
    return ((1 - (-entropy).exp()) ** gamma * entropy).mean()


def ramp(step: int, length: int, highest: float) -> float:
    """Return a value that rises linearly from 0 at step 0 to `highest` at step `length` and then stays constant."""
    return highest * min(1.0, step / max(1, length))


def structural_difference(a: Tensor, b: Tensor, window: int) -> Tensor:
    """Compute 1 - SSIM over non-overlapping windows, averaged over the colour channels.

    SSIM's sliding Gaussian window is replaced by box windows without overlap: these compare the images region by
    region, and an exporter writes them as average pooling. Source: Wang et al., IEEE TIP 2004; the windows are our
    own.

    Args:
        a: float `[N, C, H, W]` in [0, 1]; H and W are multiples of `window`.
        b: float `[N, C, H, W]`, compared with `a`.
        window: Side of a window, in pixels.

    Returns:
        float32 `[N, 1, H / window, W / window]` in [0, 2].
    """
    a, b = a.float(), b.float()
    mean_a, mean_b = F.avg_pool2d(a, window), F.avg_pool2d(b, window)
    # Rounding can make this difference of nearly equal numbers slightly negative.
    var_a = (F.avg_pool2d(a * a, window) - mean_a * mean_a).clamp_min(0)
    var_b = (F.avg_pool2d(b * b, window) - mean_b * mean_b).clamp_min(0)
    cov = F.avg_pool2d(a * b, window) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    structure = (2 * cov + _C2) / (var_a + var_b + _C2)
    return 1 - (luminance * structure).mean(1, keepdim=True)
