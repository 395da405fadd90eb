"""A second session of a graph, of one thread, for runs that do not have the cores for themselves.

A run in it needs no other thread, so several of them at the same time use the cores better than runs that share the
threads of one session. It takes the memory of the graph a second time, and is opened only when images wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import structlog

from service.bundle.arrays import UInt8Image
from service.inspection.runtime.session import GraphOutput, GraphSession, Session

log = structlog.get_logger(__name__)


def open_narrow(model: bytes, session: Session, image: UInt8Image, batch_sizes: Iterable[int]) -> GraphSession | None:
    """Open a session of one thread, if its results are those of another session to the last bit.

    Verdicts must not depend on what runs beside them. ONNX Runtime divides an operator between threads without changing
    the order of the terms of a sum, but nothing guarantees it, so it is checked. Running the image also warms the
    session up.

    Args:
        model: The serialised ONNX graph.
        session: The session that all results have to agree with.
        image: uint8 [H, W, 3] of the graph's input size, with a content like that of real images.
        batch_sizes: Sizes of the batches that will run.

    Returns:
        The session; None if a result differs.
    """
    narrow = GraphSession(model, replace(session.options, provider="cpu", threads=1))
    for size in batch_sizes:
        images = np.repeat(image[None], size, axis=0)
        if not _is_same(session.run(images), narrow.run(images)):
            log.warning("results depend on the number of threads, so all runs share one session", batch_size=size)
            narrow.close()
            return None
    return narrow


def _is_same(one: GraphOutput, other: GraphOutput) -> bool:
    if not np.array_equal(one.maps, other.maps):
        return False
    if one.gains is None or other.gains is None:
        return one.gains is other.gains
    return np.array_equal(one.gains, other.gains)
