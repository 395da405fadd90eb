"""Agreement of reviewers: raw agreement, Cohen's kappa of two, Krippendorff's alpha of all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from service.reviews.intervals import Z, rate_interval


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa of two reviewers.

    Attributes:
        images: Number of images that both labelled.
        agreement: Share of images with the same label.
        kappa: The kappa; None if both used one and the same label throughout, or without images.
        interval: Limits of the 95 % confidence interval; None if kappa is None.
    """

    images: int
    agreement: float
    kappa: float | None
    interval: tuple[float, float] | None


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> Kappa:
    """Compute Cohen's kappa (Cohen 1960, Educational and Psychological Measurement 20) with its interval.

    The interval is kappa ± 1.96 times the large-sample standard error of Fleiss, Cohen & Everitt (1969, Psychological
    Bulletin 72, equation 13), cut to [-1, 1]. That error is 0 if the reviewers agree about every image. In this case,
    the lower limit is that of the Clopper-Pearson interval of the agreement, with the expected agreement kept as
    observed (our own).

    Args:
        first: Labels of one reviewer.
        second: Labels of the other one for the same images.

    Raises:
        ValueError: The numbers of labels differ.
    """
    n = len(first)
    if n != len(second):
        raise ValueError(f"expected two labels per image, got {n} and {len(second)} labels")
    if n == 0:
        return Kappa(0, 0.0, None, None)
    places = {label: place for place, label in enumerate(dict.fromkeys((*first, *second)))}
    table = np.zeros((len(places), len(places)))
    for pair, count in Counter(zip(first, second, strict=True)).items():
        table[places[pair[0]], places[pair[1]]] = count / n
    agreeing = sum(one == other for one, other in zip(first, second, strict=True))
    rows, columns, diagonal = table.sum(1), table.sum(0), np.diag(table)
    observed, expected = agreeing / n, float(rows @ columns)
    if len(places) == 1:
        return Kappa(n, observed, None, None)
    kappa = (observed - expected) / (1 - expected)
    if agreeing == n:
        low, _ = rate_interval(n, n)
        return Kappa(n, observed, kappa, (max(-1.0, (low - expected) / (1 - expected)), 1.0))
    on = float((diagonal * ((1 - expected) - (rows + columns) * (1 - observed)) ** 2).sum())
    # Cell [i, j] is weighted by the second reviewer's share of i plus the first reviewer's share of j.
    off = table * (columns[:, None] + rows[None, :]) ** 2
    np.fill_diagonal(off, 0)
    rest = (observed * expected - 2 * expected + observed) ** 2
    variance = (on + (1 - observed) ** 2 * float(off.sum()) - rest) / (n * (1 - expected) ** 4)
    error = Z * math.sqrt(max(0.0, variance))
    return Kappa(n, observed, kappa, (max(-1.0, kappa - error), min(1.0, kappa + error)))


def krippendorffs_alpha(images: Iterable[Sequence[Hashable]]) -> float | None:
    """Compute Krippendorff's alpha for nominal data (Krippendorff 2004, Content Analysis, chapter 11.3).

    Reviewers may have labelled different images; images with fewer than two labels do not count.

    Args:
        images: The labels of every image, one per reviewer who labelled it.

    Returns:
        The alpha; None if no image has two labels, or if only one label is used.
    """
    totals: Counter[Hashable] = Counter()
    coinciding = 0.0
    for labels in images:
        if len(labels) < 2:
            continue
        counts = Counter(labels)
        totals.update(counts)
        coinciding += sum(count * (count - 1) for count in counts.values()) / (len(labels) - 1)
    n = totals.total()
    if len(totals) < 2:
        return None
    expected = sum(count * (count - 1) for count in totals.values()) / (n - 1)
    return 1 - (n - coinciding) / (n - expected)
