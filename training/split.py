"""The split of the good images: which are held out for the thresholds, and which are the reference."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MIN_TRAINING_IMAGES = 10
MIN_FEW_IMAGES = 8  # for a first verdict: half of them are held out
MAX_HELD_OUT_FRACTION = 0.5
# A second session is held out only up to this share: one session alone does not show how sessions differ, but training
# needs most of the images. With five sessions of similar sizes there is always a second one (docs/benchmarks.md).
MAX_SECOND_SESSION_FRACTION = 0.4
# The constants of the map are measured on this share of the training images, within these limits.
REFERENCE_FRACTION = 0.1
MIN_REFERENCE_IMAGES, MAX_REFERENCE_IMAGES = 3, 64
# Whole sessions are used as the reference up to this share of the training images, single images beyond it.
MAX_REFERENCE_FRACTION = 0.25


def _members(session_of: Mapping[Path, str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, name in session_of.items():
        groups[name].append(path)
    return dict(groups)


def hold_out(session_of: Mapping[Path, str], is_grouped: bool, wanted: int, seed: int) -> set[Path] | None:
    """Choose whole sessions with together at least `wanted` images, and at least two of them if possible.

    Returns:
        The images of the chosen sessions; None where sessions are unknown or too large.
    """
    if not is_grouped:
        return None
    count = len(session_of)
    groups = _members(session_of)
    # At most half of the images are held out, and training keeps its minimum.
    limit = min(int(count * MAX_HELD_OUT_FRACTION), count - min(MIN_TRAINING_IMAGES, count // 2))
    chosen: set[Path] = set()
    sessions = 0
    for name in random.Random(seed).sample(sorted(groups), len(groups)):
        allowed = limit if len(chosen) < wanted else int(count * MAX_SECOND_SESSION_FRACTION)
        if (len(chosen) < wanted or sessions < 2) and len(chosen) + len(groups[name]) <= allowed:
            chosen |= set(groups[name])
            sessions += 1
    return chosen if len(chosen) >= wanted else None


def choose_reference(session_of: Mapping[Path, str], is_grouped: bool) -> list[Path]:
    """Choose the reference images among the training images: whole sessions, the smallest first.

    Single images are chosen where sessions are unknown or too large.
    """
    paths = list(session_of)
    wanted = round(len(paths) * REFERENCE_FRACTION)
    count = min(max(wanted, MIN_REFERENCE_IMAGES), MAX_REFERENCE_IMAGES, len(paths) // 2)
    if is_grouped:
        chosen: list[Path] = []
        for _, members in sorted(_members(session_of).items(), key=lambda item: (len(item[1]), item[0])):
            if len(chosen) < count:
                chosen += members
        if len(chosen) <= max(count, int(len(paths) * MAX_REFERENCE_FRACTION)):
            return chosen
    # Evenly spaced: file names often follow the time of capture, and the reference should cover all of it.
    return [paths[int(number)] for number in np.linspace(0, len(paths), count, endpoint=False)]
