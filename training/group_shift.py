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
from service.bundle.manifest import InputGeometry
from service.inspection.calibration import DEFAULT_REVIEW_ALPHA, certify_nearest
from training.dataset import UInt8Images, load_prepared
from training.memory_bank import SEARCH_CANDIDATES, BankVariant, MemoryBank
from training.pixels import in_chunks
from training.teachers import Teacher

ItemT = TypeVar("ItemT")

# With at least this many held-out groups the calibration scores themselves show how groups differ.
ENOUGH_GROUPS = 10
MAX_GROUPS, MAX_IMAGES_EACH = 12, 12
MIN_IMAGES_EACH = 2  # half of a group is scored, the other half is its representation in the bank
SIDE = 256  # pixels; the side of the images for the bank
LEVELS = slice(1, 3)  # of the teacher's pyramid: strides 8 and 16
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
    teacher: Teacher, images: Mapping[str, Sequence[Path]], progress: Callable[[int], None] | None = None
) -> GroupShift:
    """Score every group with and without other images of it in a memory bank.

    Args:
        teacher: A frozen network.
        images: The result of `choose_images`, at least two groups.
        progress: Called with the number of groups done so far.

    Raises:
        UnreadableImage: An image cannot be read; the message names the first one.
    """
    geometry = InputGeometry(height=SIDE, width=SIDE)
    features = {name: bank_features(teacher, load_prepared(paths, geometry)) for name, paths in images.items()}
    known: list[float] = []
    new: dict[str, list[float]] = {}
    for done, name in enumerate(features, 1):
        others = [level for other, level in features.items() if other != name]
        in_bank = [level[0::2] for level in features[name]]
        scored = [level[1::2] for level in features[name]]
        known += bank_scores([*others, in_bank], scored)
        new[name] = bank_scores(others, scored)
        if progress is not None:
            progress(done)
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
def bank_features(teacher: Teacher, images: UInt8Images) -> list[Tensor]:
    """Compute the features of prepared images for `bank_scores`.

    Args:
        teacher: A frozen network.
        images: uint8 `[N, SIDE, SIDE, 3]`, RGB.

    Returns:
        Two levels, float32 `[N, C_k, H_k, W_k]`, finest first.
    """
    chunks = [teacher(pixels)[LEVELS] for pixels in in_chunks(images)]
    return [torch.cat(level) for level in zip(*chunks, strict=True)]


@torch.no_grad()
def bank_scores(banked: Sequence[Sequence[Tensor]], scored: Sequence[Tensor]) -> list[float]:
    """Return the scores of images by a memory bank of others.

    Args:
        banked: Features of the images of the bank, in any number of parts.
        scored: Features of the images to score.
    """
    bank = MemoryBank([level.shape[1] for level in scored], PROTOTYPES)
    bank.collect(banked, sum(len(levels[0]) for levels in banked))
    bank.select(BankVariant(ENERGY_FLOOR), SEARCH_CANDIDATES)
    distances = bank(scored).flatten(1)
    top = max(1, round(TOP_FRACTION * distances.shape[1]))
    return [float(value) for value in distances.topk(top, dim=1).values.mean(1)]


def _evenly(items: Sequence[ItemT], count: int) -> list[ItemT]:
    if len(items) <= count:
        return list(items)
    return [items[int(number)] for number in np.linspace(0, len(items), count, endpoint=False)]
