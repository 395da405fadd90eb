"""Group good images that were taken together, and compare the scores of the groups.

Images of one day, one lot or one part resemble each other more than those of another, so a threshold from a single
group's images is too low for other groups. Training and service group images by the same rule, and every group is
compared with the others.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.bundle.card import GroupedBy

GroupChoice = Literal["auto", "folder", "date", "prefix", "none"]
# A prefix of file names separates groups only if a group has this many images on average. With fewer, the names are
# mostly different, and the prefix is part of the image's own name.
MIN_PREFIX_IMAGES = 2
MAX_NAME_LENGTH = 255  # of file systems; names in an upload can be longer
MAX_PREFIX_CUTS = 8  # parts at the end of a file name that may be cut

# With fewer images per day the normal approximation of the test is poor, and differences are not significant.
MIN_DAY_IMAGES = 8
# Probability that at least one day is flagged although all days are alike.
FLAG_LEVEL = 0.01

_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d(?!\d{3}))")
_SEPARATOR = re.compile(r"[\W_]+")
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


def group_images(paths: Sequence[PurePath], by: GroupChoice = "auto") -> Grouping:
    """Group images by the dates in their names, their folders, or a common prefix of their file names.

    Args:
        paths: Paths relative to the image folder.
        by: What separates the groups. "auto": the first of date, folder and prefix that gives at least two groups.

    Returns:
        The groups; "none" if the chosen property does not separate the images.
    """
    if by in {"auto", "date"}:
        dates = [date_of(path) for path in paths]
        if None not in dates and len(set(dates)) > 1:
            return Grouping("date-in-name", tuple(str(date) for date in dates))
    if by in {"auto", "folder"}:
        folders = [path.parent.as_posix() for path in paths]
        if len(set(folders)) > 1:
            return Grouping("folder", tuple(folders))
    if by in {"auto", "prefix"} and (prefixes := common_prefixes([path.stem for path in paths])) is not None:
        return Grouping("prefix", tuple(prefixes))
    return Grouping("none", ("all",) * len(paths))


def common_prefixes(names: Sequence[str]) -> list[str] | None:
    """Return the prefix that each name shares with others: what remains without a counter at its end.

    Of several possible cuts the one with the smallest groups is taken: "lot1_part3_07" belongs to "lot1_part3", not to
    "lot1". Cuts are made before a number at the end and at separators (everything but letters and digits).

    Args:
        names: File names without suffix.

    Returns:
        One prefix per name; None if no cut gives at least two groups of `MIN_PREFIX_IMAGES` images on average.
    """
    if any(len(name) > MAX_NAME_LENGTH for name in names):
        return None
    for cut in range(MAX_PREFIX_CUTS + 1):
        prefixes = [_shortened(name, cut) for name in names]
        counts = Counter(prefixes)
        if "" not in counts and 1 < len(counts) <= len(names) / MIN_PREFIX_IMAGES:
            return prefixes
    return None


def _shortened(name: str, cut: int) -> str:
    """Return a name without its last `cut` parts; for 0 without a number at its end."""
    if cut == 0:
        return _strip_punctuation(_strip_punctuation(name).rstrip("0123456789"))
    parts = [part for part in _SEPARATOR.split(name) if part]
    return "_".join(parts[:-cut])


def _strip_punctuation(name: str) -> str:
    end = len(name)
    while end and not name[end - 1].isalnum():
        end -= 1
    return name[:end]


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
