"""Marks on intermediate tensors of a network, by which the exporter finds those that explain the anomaly map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn


class Tap(nn.Module):
    """Returns its input. It has no weights and leaves no trace in the exported graph."""

    def forward(self, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        return tensor


@contextmanager
def recording(modules: Mapping[str, nn.Module]) -> Iterator[Mapping[str, Tensor]]:
    """Record the outputs of modules while the network runs in the block.

    Args:
        modules: Modules of the network by name. Each returns one tensor.

    Returns:
        The newest output of each module by the same name; modules that did not run are missing.
    """
    seen: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        seen[name] = output

    handles = [module.register_forward_hook(partial(record, name)) for name, module in modules.items()]
    try:
        # A view of the dictionary: torch.export would treat a dictionary as a part of the network that changes.
        yield MappingProxyType(seen)
    finally:
        for handle in handles:
            handle.remove()
