"""Convolutional blocks of the student networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBNReLU(nn.Sequential):
    """Convolution, BatchNorm and ReLU; `[N, cin, H, W]` -> `[N, cout, H / stride, W / stride]`.

    Args:
        cin: Input channels.
        cout: Output channels.
        kernel: Side of the convolution kernel.
        stride: Stride of the convolution.
    """

    def __init__(self, cin: int, cout: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(inplace=True),
        )


class BasicBlock(nn.Module):
    """ResNet's basic block: two 3x3 convolutions with an identity or 1x1 projection shortcut.

    `[N, cin, H, W]` -> `[N, cout, H / stride, W / stride]`. Source: He et al., CVPR 2016.

    Args:
        cin: Input channels.
        cout: Output channels.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, cin: int, cout: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvBNReLU(cin, cout, stride=stride)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return F.relu(self.bn2(self.conv2(self.conv1(x))) + self.shortcut(x))


class BottleneckBlock(nn.Module):
    """ResNet's bottleneck block: 1x1 convolution to half the channels, 3x3, 1x1 back, with an identity shortcut.

    At the coarsest level it enlarges the receptive field with about a fifth of the weights of a `BasicBlock`. Source:
    He et al., CVPR 2016; the embedding of RD4AD and DRD uses the same kind of block.

    Args:
        channels: Input and output channels.
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
        """Apply the block; the shape `[N, channels, H, W]` stays the same."""
        return F.relu(self.body(x) + x)


class UpBlock(nn.Module):
    """Upsampling by a 2x2 transposed convolution of stride 2, BatchNorm and ReLU.

    `[N, cin, H, W]` -> `[N, cout, 2H, 2W]`. Source: the decoder in the code of RD4AD and DRD.

    Args:
        cin: Input channels.
        cout: Output channels.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(cin, cout, 2, 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return F.relu(self.bn(self.up(x)))


class ChannelSpatialAttention(nn.Module):
    """CBAM: a channel gate followed by a spatial gate, both in (0, 1); the shape `[N, C, H, W]` stays the same.

    Source: Woo et al., ECCV 2018.

    Args:
        channels: Input and output channels.
        reduction: Ratio of `channels` to the width of the channel gate's hidden layer; the paper uses 16.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(4, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both gates."""
        pooled = (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))
        x = x * torch.stack([self.excite(F.relu(self.squeeze(p))) for p in pooled]).sum(0).sigmoid()
        pooled_channels = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        gated: Tensor = x * self.spatial(pooled_channels).sigmoid()
        return gated


class PyramidScaler(nn.Module):
    """Standardisation of each channel of a feature pyramid, and its inverse.

    Mean and standard deviation are those of the training images. The student works on standardised channels, but the
    distance is measured on the teacher's raw features: standardising these reduces the accuracy. Source: our own.

    Args:
        channels: Channels of each level.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for level, count in enumerate(channels):
            self.register_buffer(f"mean{level}", torch.zeros(1, count, 1, 1))
            self.register_buffer(f"std{level}", torch.ones(1, count, 1, 1))

    def measure(self, features: Sequence[Tensor]) -> None:
        """Measure mean and standard deviation of each channel.

        Args:
            features: Features of the training images, float `[N, C_k, H_k, W_k]` per level.
        """
        for level, feature in enumerate(features):
            std, mean = torch.std_mean(feature.float(), (0, 2, 3), keepdim=True)
            self.get_buffer(f"mean{level}").copy_(mean)
            self.get_buffer(f"std{level}").copy_(std.clamp_min(1e-6))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Standardise `[N, C_k, H_k, W_k]` per level."""
        return [
            (f - self.get_buffer(f"mean{level}")) / self.get_buffer(f"std{level}") for level, f in enumerate(features)
        ]

    def undo(self, standardised: Sequence[Tensor]) -> list[Tensor]:
        """Invert `forward`; the result is float32 `[N, C_k, H_k, W_k]` per level."""
        return [
            s.float() * self.get_buffer(f"std{level}") + self.get_buffer(f"mean{level}")
            for level, s in enumerate(standardised)
        ]


class UNet(nn.Module):
    """U-Net with four encoder stages, three decoder stages and concatenation skips.

    `[N, cin, H, W]` -> logits `[N, 1, H, W]`; H and W are multiples of 8. Source: RSTPM, figure 6, with one logit
    instead of DRAEM's two softmax channels, which is equivalent.

    Args:
        cin: Input channels.
        width: Channels of the first stage; doubled in each following stage.
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
        """Compute the logits."""
        skips = []
        for stage, down in enumerate(self.down):
            x = down(x if stage == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for stage in reversed(range(len(self.up))):
            x = self.merge[stage](torch.cat([self.up[stage](x), skips[stage]], 1))
        logits: Tensor = self.head(x)
        return logits


def initialise(module: nn.Module) -> None:
    """Initialise convolutions with Kaiming normal (fan-out), BatchNorm with weight 1 and bias 0.

    Source: DRD's code.

    Args:
        module: Initialised in place, with all its children.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.BatchNorm2d):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
