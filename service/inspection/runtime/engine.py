"""Where the graphs of bundles run: in this process, or elsewhere.

An engine opens graphs. Everything else about an image (decoding, quality check, score, decision) is computed in this
process, whichever engine runs the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.bundle.bundle import Bundle
from service.inspection.runtime.session import GraphSession, Session, SessionOptions


def open_here(bundle: Bundle, options: SessionOptions) -> Session:
    """Open the graph of a bundle in this process.

    Raises:
        BundleIntegrity: The graph has changed since the bundle was verified.
        ProviderUnavailable: The requested provider cannot be used.
    """
    return GraphSession(bundle.read_model(), options)


@dataclass(frozen=True)
class Engine:
    """Opens the graphs of bundles.

    Attributes:
        open: Returns a session for the graph of a verified bundle. It raises an error of the service if that is not
            possible.
        concurrency: Runs of one graph that may be in progress at the same time, if they compute on other processors
            than those of this process; None if they compute here, so that the number depends on this machine.
    """

    open: Callable[[Bundle, SessionOptions], Session] = open_here
    concurrency: int | None = None


IN_PROCESS = Engine()
"""Runs graphs in this process."""
