"""Convolutional blocks that the students are built from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBNReLU(nn.Sequential):
    """3x3 (or k x k) convolution, BatchNorm, ReLU; `[N, cin, H, W]` -> `[N, cout, H/stride, W/stride]`."""

    def __init__(self, cin: int, cout: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(inplace=True),
        )


class BasicBlock(nn.Module):
    """ResNet's two 3x3 convolutions with an identity or 1x1 projection shortcut. Source: [C] RD4AD/DRD decoder."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvBNReLU(cin, cout, stride=stride)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(self.conv1(x))) + self.shortcut(x))


class BottleneckBlock(nn.Module):
    """1x1 to half the channels, 3x3, 1x1 back, with an identity shortcut. Source: [C] the OCE of RD4AD/DRD.

    At the coarsest level it widens the view for a tenth of a `BasicBlock`'s weights, which is what fills the bundle.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            ConvBNReLU(channels, half, kernel=1),
            ConvBNReLU(half, half),
            nn.Conv2d(half, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x)


class UpBlock(nn.Module):
    """Doubles the resolution; `[N, cin, H, W]` -> `[N, cout, 2H, 2W]`. Source: [C] ConvTranspose 2x2 stride 2.

    A 2x2 transposed convolution of stride 2 is a 1x1 convolution to four times the channels and a pixel shuffle: the
    same family of functions.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(cin, cout, 2, 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.up(x)))


class ChannelSpatialAttention(nn.Module):
    """CBAM: a gate per channel, then a gate per place; same shape out. Source: [P] Woo et al., ECCV 2018.

    Args:
        channels: of the input.
        reduction: how much narrower the shared hidden layer of the channel gate is; [P] 16.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(4, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)
        self.place = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))
        x = x * torch.stack([self.excite(F.relu(self.squeeze(p))) for p in pooled]).sum(0).sigmoid()
        where = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        gated: Tensor = x * self.place(where).sigmoid()
        return gated


class PyramidScaler(nn.Module):
    """Standardises every level's channels and back, with constants of the good training images. Our own.

    The student works on comparable channels, while the distance is still taken on the teacher's raw features, whose
    large channels carry the meaning: standardising those costs accuracy.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for level, count in enumerate(channels):
            self.register_buffer(f"mean{level}", torch.zeros(1, count, 1, 1))
            self.register_buffer(f"std{level}", torch.ones(1, count, 1, 1))

    def measure(self, features: Sequence[Tensor]) -> None:
        """Takes the constants from `[N, C_k, H_k, W_k]` per level."""
        for level, feature in enumerate(features):
            std, mean = torch.std_mean(feature.float(), (0, 2, 3), keepdim=True)
            self.get_buffer(f"mean{level}").copy_(mean)
            self.get_buffer(f"std{level}").copy_(std.clamp_min(1e-6))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [
            (f - self.get_buffer(f"mean{level}")) / self.get_buffer(f"std{level}") for level, f in enumerate(features)
        ]

    def undo(self, standardised: Sequence[Tensor]) -> list[Tensor]:
        return [
            s.float() * self.get_buffer(f"std{level}") + self.get_buffer(f"mean{level}")
            for level, s in enumerate(standardised)
        ]


class UNet(nn.Module):
    """Four encoder and three decoder stages with skips; `[N, cin, H, W]` -> logits `[N, 1, H, W]`, H, W multiples of 8.

    Source: [F] RSTPM, figure 6; one logit says the same as the two softmax channels of DRAEM [R].
    """

    def __init__(self, cin: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(4)]
        self.down = nn.ModuleList(
            [
                nn.Sequential(ConvBNReLU(c, w), ConvBNReLU(w, w))
                for c, w in zip([cin, *widths[:-1]], widths, strict=True)
            ]
        )
        self.up = nn.ModuleList([UpBlock(2 * w, w) for w in widths[:-1]])
        self.merge = nn.ModuleList([ConvBNReLU(2 * w, w) for w in widths[:-1]])
        self.head = nn.Conv2d(width, 1, 1)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for stage, down in enumerate(self.down):
            x = down(x if stage == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for stage in reversed(range(len(self.up))):
            x = self.merge[stage](torch.cat([self.up[stage](x), skips[stage]], 1))
        logits: Tensor = self.head(x)
        return logits


def initialise(module: nn.Module) -> None:
    """Kaiming fan-out for convolutions, 1 and 0 for BatchNorm. Source: [C] DRD `bn.py`."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.BatchNorm2d):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
