"""An estimate of how much the scores of good images rise in a capture group that training has not seen. Our own.

With few groups, the calibration scores come from one or two of them and do not show how groups differ. A memory bank
needs no training, so it can be built again without each group in turn: the scores of a group's images without their
group in the bank, compared with their scores when other images of the group are in it, show the shift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from service.bundle.card import GroupShift
from service.inspection.calibration import DEFAULT_REVIEW_ALPHA, certify_nearest
from training.coarse_features import CoarseFeatures
from training.memory_bank import SEARCH_CANDIDATES, BankVariant, MemoryBank
from training.parallel import in_parallel

ItemT = TypeVar("ItemT")

# With at least this many held-out groups the calibration scores themselves show how groups differ.
ENOUGH_GROUPS = 10
MAX_GROUPS, MAX_IMAGES_EACH = 12, 12
MIN_IMAGES_EACH = 2  # half of a group is scored, the other half is its representation in the bank
PROTOTYPES = 512
ENERGY_FLOOR = 0.3
TOP_FRACTION = 0.01  # of the cells of an image: their mean is its score


def choose_images(paths: Sequence[Path], groups: Sequence[str]) -> Mapping[str, list[Path]]:
    """Choose the groups and the images of each that the estimate uses, evenly spaced.

    Args:
        paths: All good images.
        groups: The group of each.

    Returns:
        Images by group; empty if fewer than two groups have enough images.
    """
    members: dict[str, list[Path]] = {}
    for path, group in zip(paths, groups, strict=True):
        members.setdefault(group, []).append(path)
    large = sorted(name for name, images in members.items() if len(images) >= MIN_IMAGES_EACH)
    if len(large) < 2:
        return {}
    return {name: _evenly(sorted(members[name]), MAX_IMAGES_EACH) for name in _evenly(large, MAX_GROUPS)}


@torch.no_grad()
def estimate_shift(
    features: CoarseFeatures, images: Mapping[str, Sequence[Path]], progress: Callable[[int], None] | None = None
) -> GroupShift:
    """Score every group with and without other images of it in a memory bank.

    Args:
        features: Computes the features of images.
        images: The result of `choose_images`, at least two groups.
        progress: Called with the number of groups done so far.

    Raises:
        UnreadableImage: An image cannot be read; the message names the first one.
    """
    cells = {name: features.of(paths) for name, paths in images.items()}

    def compare(name: str) -> tuple[list[float], list[float]]:
        others = [descriptors for other, descriptors in cells.items() if other != name]
        in_bank, scored = cells[name][0::2], cells[name][1::2]
        return bank_scores([*others, in_bank], scored), bank_scores(others, scored)

    known: list[float] = []
    new: dict[str, list[float]] = {}
    for name, (with_group, without_group) in zip(cells, in_parallel(compare, cells), strict=True):
        known += with_group
        new[name] = without_group
        if progress is not None:
            progress(len(new))
    threshold = certify_nearest(sorted(known), DEFAULT_REVIEW_ALPHA)
    rates = {name: float(np.mean(np.array(scores) > threshold.value)) for name, scores in new.items()}
    worst = max(rates, key=lambda name: rates[name])
    return GroupShift(
        groups=len(rates),
        images=len(known),
        known_rate=threshold.expected_rate,
        new_rate=float(np.mean(list(rates.values()))),
        worst_rate=rates[worst],
        worst_group=worst,
    )


@torch.no_grad()
def bank_scores(banked: Sequence[Tensor], scored: Tensor) -> list[float]:
    """Return the scores of images by a memory bank of others.

    Args:
        banked: Descriptors of the images of the bank, float32 `[n, C, H, W]`, in any number of parts.
        scored: Descriptors of the images to score, float32 `[N, C, H, W]`.
    """
    bank = MemoryBank([scored.shape[1]], PROTOTYPES)
    bank.collect(([part] for part in banked), sum(map(len, banked)))
    bank.select(BankVariant(ENERGY_FLOOR), SEARCH_CANDIDATES)
    distances = bank([scored]).flatten(1)
    top = max(1, round(TOP_FRACTION * distances.shape[1]))
    return [float(value) for value in distances.topk(top, dim=1).values.mean(1)]


def _evenly(items: Sequence[ItemT], count: int) -> list[ItemT]:
    if len(items) <= count:
        return list(items)
    return [items[int(number)] for number in np.linspace(0, len(items), count, endpoint=False)]
