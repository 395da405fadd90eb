"""The device that trains: its selection, its precision, and the transfer of batches."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from training.config import FitConfig
from training.errors import DeviceUnavailable
from training.methods.base import Batch


def resolve_device(requested: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """Select the device that trains.

    Args:
        requested: "auto" is "cuda" where PyTorch finds a CUDA GPU, else "cpu".

    Raises:
        DeviceUnavailable: "cuda" is requested and there is no CUDA GPU.
    """
    if requested == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if requested == "cuda":
        raise DeviceUnavailable(requested)
    return "cpu"


def uses_bfloat16(precision: Literal["auto", "bfloat16", "float32"], device: torch.device) -> bool:
    """Return whether the networks compute in bfloat16 during training.

    Args:
        precision: "auto" is bfloat16 where the device has instructions for it.
        device: The device that trains.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # The names are those of x86 (AVX-512, AMX) and of ARM.
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def mixed_precision(config: FitConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Return the autocast context in which the networks compute."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(config.precision, device))


def default_device(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which new tensors are created on the device.

    Methods create noise and masks without naming a device. On the CPU, PyTorch's default, the context does nothing:
    PyTorch's own would slow down every call.
    """
    return nullcontext() if device.type == "cpu" else device


def batch_to(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with all its tensors on the device."""
    moved: dict[str, Any] = {}
    for item in fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            moved[item.name] = value.to(device)
        elif isinstance(value, list):
            moved[item.name] = [tensor.to(device) for tensor in value]
    return replace(batch, **moved)
