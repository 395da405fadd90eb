"""Exponential moving average of the weights that are trained, and of the statistics beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ExponentialAverage:
    """Follows a module's trainable parameters and floating-point buffers.

    The average is what ships: it is steadier than the last step's weights and needs no choice of a checkpoint, which
    would need defective images to choose by.

    Args:
        module: the module to follow; frozen parameters are left out.
        decay: share of the old average kept per step once warm; early on `(1 + step) / (10 + step)` if smaller.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: value.detach().clone() for name, value in _followed(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = _followed(module)
        names = list(self.shadow)
        torch._foreach_lerp_([self.shadow[n] for n in names], [current[n] for n in names], weight)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, value in _followed(module).items():
            value.copy_(self.shadow[name])


def _followed(module: nn.Module) -> dict[str, Tensor]:
    trained = {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}
    # The average of BatchNorm's running statistics belongs to the average of its weights.
    statistics = {
        name: value for name, value in module.named_buffers() if name.endswith(("running_mean", "running_var"))
    }
    return trained | statistics
