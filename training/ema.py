"""Exponential moving average of the trained weights and of the BatchNorm statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialAverage:
    """The moving average of a module's trainable parameters and BatchNorm statistics.

    The average is exported instead of the last step's weights: it varies less from step to step, and choosing a
    checkpoint would need defective images.

    `torch.optim.swa_utils.AveragedModel` computes the same average over a copy of the whole module. It is not used
    here: the copy would hold the frozen teachers a second time, its decay has no warm-up, and its first update copies
    the weights.

    Args:
        module: The module to follow. Frozen parameters are excluded.
        decay: Share of the old average that each step keeps, in [0, 1]; `(1 + step) / (10 + step)` while that is
            smaller.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: value.detach().clone() for name, value in _followed(module).items()}

    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's present weights.

        Args:
            module: The module given at construction.
            step: Number of the step, from 0.
        """
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))  # type: ignore[no-untyped-call]
        current = _followed(module)
        average(list(self.shadow.values()), [current[name] for name in self.shadow], step)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Replace the module's weights and statistics by their average."""
        for name, value in _followed(module).items():
            value.copy_(self.shadow[name])

    @torch.no_grad()
    def load(self, shadow: dict[str, Tensor]) -> None:
        """Restore the average from a checkpoint's, which may lie on another device."""
        for name, value in self.shadow.items():
            value.copy_(shadow[name])


def _followed(module: nn.Module) -> dict[str, Tensor]:
    trained = {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}
    # Averaged weights need averaged statistics: BatchNorm's running mean and variance belong to the weights.
    statistics = {
        name: value for name, value in module.named_buffers() if name.endswith(("running_mean", "running_var"))
    }
    return trained | statistics
