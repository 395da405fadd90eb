"""Which tensors of a trained network explain its anomaly map, for the manifest of the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.bundle.manifest import BankTensors, Explanation, SourceTensors
from training.maps import LevelFusion
from training.memory_bank import MemoryBank
from training.taps import recording

_PREFIX = "explain_"


@dataclass(frozen=True)
class ExplainedTensors:
    """The tensors that explain the anomaly map of a network.

    Attributes:
        explanation: Their names and meaning.
        modules: The module of the network whose output each tensor is, by the name of the tensor.
    """

    explanation: Explanation
    modules: Mapping[str, nn.Module]


def find_explanation(method: nn.Module, image: Tensor) -> ExplainedTensors | None:
    """Find the maps that a network adds up, and its memory banks.

    Args:
        method: A network in evaluation mode, with the interface of `Method.forward`.
        image: uint8 `[N, H, W, 3]`, RGB.

    Returns:
        The tensors; None if the network does not fuse its maps by exactly one `LevelFusion`.
    """
    fusions = [module for module in method.modules() if isinstance(module, LevelFusion)]
    if len(fusions) != 1:
        return None
    (fusion,) = fusions
    banks = {
        name.rpartition(".")[2]: module for name, module in method.named_modules() if isinstance(module, MemoryBank)
    }
    total = f"{_PREFIX}total"
    parts = dict(zip((f"{_PREFIX}{name}" for name in fusion.names), fusion.parts, strict=True))
    candidates = {f"{_PREFIX}{name}_candidates": bank.candidates for name, bank in banks.items()}
    distances = {f"{_PREFIX}{name}_distances": bank for name, bank in banks.items()}
    modules: dict[str, nn.Module] = {total: fusion.total, **parts, **candidates, **distances}
    with recording(modules) as seen, torch.inference_mode():
        method(image)
    if seen.keys() != modules.keys():
        return None
    explanation = Explanation(
        total=total,
        sources=[SourceTensors(name=name, tensor=tensor) for name, tensor in zip(fusion.names, parts, strict=True)],
        banks=[
            BankTensors(
                name=name,
                candidates=values,
                nearest=banks[name].nearest,
                distances=found,
                rows=seen[found].shape[-2],
                columns=seen[found].shape[-1],
                prototypes=seen[values].shape[-1],
            )
            for name, values, found in zip(banks, candidates, distances, strict=True)
        ],
    )
    return ExplainedTensors(explanation, modules)
