"""Group good images by capture day, and compare the scores of the days.

Images of one day resemble each other more than images of another day, so a threshold from a single day's images
promises too much. Training and service group images by the same rule, and every day is compared with the others.
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

# With fewer images per day the normal approximation of the test is poor, and differences are not significant.
MIN_DAY_IMAGES = 8
# Probability that at least one day is flagged although all days are alike.
FLAG_LEVEL = 0.01

_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d(?!\d{3}))")
_DEFECTIVE_NAMES = re.compile(
    r"test|ground_?truth|masks?|bad|ng|nok|defect(s|ive)?|faulty|rejects?|scrap|anomal(y|ies|ous)|abnormal"
    r"|scratch(es|ed)?|dents?|stains?|cracks?|burrs?|broken|damaged?|contaminat(ed|ion)",
    re.IGNORECASE,
)


def is_defect_folder(folder: str) -> bool:
    """Return whether a folder's name indicates test or defective images instead of good parts."""
    return _DEFECTIVE_NAMES.fullmatch(folder) is not None


@dataclass(frozen=True)
class Grouping:
    """Capture groups of images.

    Attributes:
        grouped_by: How the groups were found; "none" if nothing distinguishes them, then all images are one session.
        names: The group of every image, in the order of the images.
    """

    grouped_by: GroupedBy
    names: tuple[str, ...]


def group_images(paths: Sequence[PurePath]) -> Grouping:
    """Group images by the dates in their names, otherwise by their folders.

    Args:
        paths: Paths relative to the image folder.
    """
    dates = [date_of(path) for path in paths]
    if None not in dates and len(set(dates)) > 1:
        return Grouping("date-in-name", tuple(str(date) for date in dates))
    folders = [path.parent.as_posix() for path in paths]
    if len(set(folders)) > 1:
        return Grouping("folder", tuple(folders))
    return Grouping("none", ("all",) * len(paths))


def date_of(path: PurePath) -> str | None:
    """Return the last date in a relative path as YYYY-MM-DD, or None.

    The last date is used because the date of a file is more precise than the date of its folder.
    """
    dates = [f"{m[1]}-{m[3]}-{m[4]}" for m in _DATE.finditer(path.as_posix())]
    return dates[-1] if dates else None


@dataclass(frozen=True)
class DaySummary:
    """Scores of one day or folder of good images, relative to a threshold.

    Attributes:
        name: The day or folder.
        images: Number of images.
        above: How many of them score strictly above the threshold.
        median_score: Median of their scores.
        p_value: Probability of so large a difference from the other days' scores if all days are alike (two-sided
            rank-sum test); None where there are too few images.
        differs: Whether the p-value is significant, corrected for the number of days; None as above.
    """

    name: str
    images: int
    above: int
    median_score: float
    p_value: float | None
    differs: bool | None


def summarise_days(scores: Sequence[float], days: Sequence[str], threshold: float) -> tuple[DaySummary, ...]:
    """Summarise the scores of good images per day.

    Args:
        scores: Raw scores, in any order.
        days: The day of each score.
        threshold: Scores above it are counted.

    Returns:
        One summary per day, sorted by name.
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
            # Bonferroni correction: with more days, more of them differ by chance.
            differs=None if (p := tests[name]) is None else p * tested < FLAG_LEVEL,
        )
        for name, chosen in members.items()
    )


def _rank_sum(day: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> float | None:
    if min(len(day), len(others)) < MIN_DAY_IMAGES:
        return None
    return rank_sum_p_value(day, others)


def rank_sum_p_value(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return the two-sided p-value of the rank-sum test (Mann-Whitney U).

    It uses the normal approximation with corrections for ties and continuity.

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
