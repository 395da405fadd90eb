"""The state of the service that the OPC UA server shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ServiceState:
    """The state of the service that clients read.

    Attributes:
        is_ready: Whether images should be sent.
        is_usable: Whether results are valid: the service is ready, or it stops and completes accepted images.
        products: Names of the products that are served.
    """

    is_ready: bool
    is_usable: bool
    products: frozenset[str]


ReadState = Callable[[], ServiceState]
"""Returns the state now. It is fast and callable by any thread."""
