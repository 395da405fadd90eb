"""Marks on intermediate tensors of a network, by which the exporter finds those that explain the anomaly map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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

    def record(name: str, output: Tensor) -> None:
        seen[name] = output

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: record(name, output))
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
