"""When a training has converged: our own rule, because anomalib sets no number of steps for STFPM."""

from collections.abc import Sequence
from statistics import fmean

WINDOW = 50  # steps
GAIN = 0.03  # smallest relative decrease from one window to the next


def has_converged(losses: Sequence[float], window: int = WINDOW, gain: float = GAIN) -> bool:
    """Return whether the mean loss of the last window is not lower by a share than that of the window before.

    Args:
        losses: Loss per image of every step so far.
        window: Steps per window. Before two windows are complete, nothing has converged.
        gain: Smallest relative decrease of a training that still progresses, above 0.
    """
    if len(losses) < 2 * window:
        return False
    return fmean(losses[-window:]) > (1 - gain) * fmean(losses[-2 * window : -window])
