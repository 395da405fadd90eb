"""Convolutional blocks that the students are built from."""

from __future__ import annotations

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
