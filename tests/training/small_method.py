"""The smallest network with the interface of a method: two levels, a data-dependent choice, a gain."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SmallMethod(nn.Module):
    """Edge energy at two scales; the gain is taken from the level with the smaller variance, as in DRD's refinement.

    Args:
        frozen_choice: Make the choice in Python, so that the exporter makes the example's choice constant.
        gain: Whether there is a score gain.
    """

    def __init__(self, *, frozen_choice: bool = False, gain: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("fine", torch.randn(8, 3, 3, 3, generator=generator))
        self.register_buffer("coarse", torch.randn(8, 8, 3, 3, generator=generator))
        self.fine: Tensor
        self.coarse: Tensor
        self.frozen_choice = frozen_choice
        self.gain = gain
        self.frozen = 0

    def levels(self, image: Tensor) -> Tensor:
        """Return float32 `[N, 2, H/2, W/2]`."""
        x = image.permute(0, 3, 1, 2).float() / 255 - 0.5
        first = F.conv2d(x, self.fine, stride=2, padding=1)
        second = F.conv2d(first, self.coarse, stride=2, padding=1)
        size = first.shape[-2:]
        deep = F.interpolate(second.square().mean(1, keepdim=True), size=size, mode="bilinear", align_corners=False)
        return torch.cat([first.square().mean(1, keepdim=True), deep / 55], 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        levels = self.levels(image)
        if not self.gain:
            return levels.mean(1), None
        peaks, spread = levels.amax((2, 3)), levels.var((2, 3))
        if self.frozen_choice:
            # The result of tracing `if spread[0] < spread[1]`: correct for the example, wrong for other images.
            choice = spread.argmin(1, keepdim=True)
            if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
                choice = torch.zeros_like(choice)
        else:
            choice = spread.argmin(1, keepdim=True)
        return levels.mean(1), 1 + peaks.gather(1, choice)[:, 0]
