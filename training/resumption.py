"""Continuation of a training that was interrupted, without anybody who decides what becomes of an old checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from training.dataset import DataSet
from training.errors import CheckpointMismatch
from training.fit import Progress
from training.pipeline import Reporter, Request, Trained, train

log = logging.getLogger(__name__)


def continue_or_restart(
    request: Request,
    reporter: Reporter,
    should_stop: Callable[[Progress], bool] = lambda _: False,
    on_checked: Callable[[DataSet, Sequence[Path]], None] = lambda _, __: None,
) -> Trained:
    """Train, from the checkpoint if there is one of the same run, else from the start.

    A checkpoint of other images or settings, or of another version of torch, is not used.

    Args:
        request: The product to train; its `resume` is not used.
        reporter: Shows the progress.
        should_stop: See `training.pipeline.train`.
        on_checked: See `training.pipeline.train`.

    Raises:
        PlumblineError: Subclasses name what was wrong.
        KeyboardInterrupt: `should_stop` returned True.
    """
    try:
        return train(replace(request, resume=True), reporter, should_stop, on_checked)
    except CheckpointMismatch as error:
        log.warning("%s The training begins anew.", error.detail)
        return train(replace(request, resume=False), reporter, should_stop, on_checked)
