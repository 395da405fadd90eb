"""Which good images were taken together, and whether one day's look like the others'.

Images of one day resemble each other more than those of the next. A threshold from a single day's images therefore
promises too much: how they group is told from names by one rule, for training and service alike, and every day is
compared with the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from service.bundle.card import GroupedBy

# A day of fewer images cannot be told from chance, and the normal approximation of the test is poor there.
MIN_DAY_IMAGES = 8
# How rarely a set of days that are all alike has one flagged, over all its days together.
FLAG_LEVEL = 0.01

_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d(?!\d{3}))")
_DEFECTIVE_NAMES = re.compile(
    r"test|ground_?truth|masks?|bad|ng|nok|defect(s|ive)?|faulty|rejects?|scrap|anomal(y|ies|ous)|abnormal"
    r"|scratch(es|ed)?|dents?|stains?|cracks?|burrs?|broken|damaged?|contaminat(ed|ion)",
    re.IGNORECASE,
)


def is_defect_folder(folder: str) -> bool:
    """Whether a folder's name says that what lies in it is no image of a good part."""
    return _DEFECTIVE_NAMES.fullmatch(folder) is not None


@dataclass(frozen=True)
class Grouping:
    """How images belong together.

    Attributes:
        grouped_by: What told them apart; "none" where nothing did, and then all count as one session.
        names: The group of every image, in the order of the images.
    """

    grouped_by: GroupedBy
    names: tuple[str, ...]


def group_images(paths: Sequence[PurePath]) -> Grouping:
    """Tell the sessions of images apart by the dates in their names, else by their folders.

    Args:
        paths: Relative to the folder that was given.
    """
    dates = [date_of(path) for path in paths]
    if None not in dates and len(set(dates)) > 1:
        return Grouping("date-in-name", tuple(str(date) for date in dates))
    folders = [path.parent.as_posix() for path in paths]
    if len(set(folders)) > 1:
        return Grouping("folder", tuple(folders))
    return Grouping("none", ("all",) * len(paths))


def date_of(path: PurePath) -> str | None:
    """The last date in a relative path as YYYY-MM-DD: a file's own date is more precise than its folder's."""
    dates = [f"{m[1]}-{m[3]}-{m[4]}" for m in _DATE.finditer(path.as_posix())]
    return dates[-1] if dates else None


@dataclass(frozen=True)
class DaySummary:
    """One day's or folder's good images beside a threshold.

    Attributes:
        name: The day or folder.
        images: Their number.
        above: How many of them score strictly above the threshold.
        median_score: Their median score.
        p_value: How likely scores that differ so much from the other days' are if all days are alike (two-sided
            rank-sum test); None where there are too few images to say.
        differs: Whether that is too unlikely for chance, all days taken together; None as above.
    """

    name: str
    images: int
    above: int
    median_score: float
    p_value: float | None
    differs: bool | None


def summarise_days(scores: Sequence[float], days: Sequence[str], threshold: float) -> tuple[DaySummary, ...]:
    """Look at good images day by day.

    Args:
        scores: Their raw scores, in any order.
        days: The day of each.
        threshold: What lies above it is counted.

    Returns:
        One summary a day, sorted by name.
    """
    values, names = np.asarray(scores, np.float64), np.asarray(days)
    members = {str(name): names == name for name in sorted(set(days))}
    tests = {name: _rank_sum(values[chosen], values[~chosen]) for name, chosen in members.items()}
    tested = sum(p is not None for p in tests.values())
    return tuple(
        DaySummary(
            name=name,
            images=int(chosen.sum()),
            above=int((values[chosen] > threshold).sum()),
            median_score=float(np.median(values[chosen])),
            p_value=tests[name],
            # Bonferroni: the more days are looked at, the more of them look strange by chance.
            differs=None if (p := tests[name]) is None else p * tested < FLAG_LEVEL,
        )
        for name, chosen in members.items()
    )


def _rank_sum(day: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> float | None:
    if min(len(day), len(others)) < MIN_DAY_IMAGES:
        return None
    return rank_sum_p_value(day, others)


def rank_sum_p_value(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """The two-sided p-value of the rank-sum test (Mann-Whitney U): normal approximation, with corrections for ties and
    continuity.

    Args:
        first: Scores, float64 [m].
        second: Scores, float64 [n].
    """
    m, n = len(first), len(second)
    both = np.concatenate([first, second])
    _, place, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal scores share the mean of their ranks
    u = float(ranks[:m].sum()) - m * (m + 1) / 2
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = m * n / 12 * (m + n + 1 - ties / ((m + n) * (m + n - 1)))
    if variance == 0:  # all scores are equal
        return 1.0
    return min(1.0, math.erfc(max(0.0, abs(u - m * n / 2) - 0.5) / math.sqrt(2 * variance)))
