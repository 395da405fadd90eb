"""Verify the two guarantees about the false-reject rate with 1,000 simulated calibrations per case.

    python -m benchmarks.guarantee --write

The scores follow a known distribution (gamma, shape 2), so the true false-reject rate of every threshold is known, too;
only the calibration images are random. Prints the table; `--write` writes it and the figure to docs/.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from service.inspection.calibration import certify, confident_rate

DOCUMENT = Path("docs/guarantee.md")
FIGURE = Path("docs/images/guarantee.svg")
BEGIN, END = "<!-- made by benchmarks.guarantee -->", "<!-- until here -->"
CALIBRATIONS = 1000
SEED = 20261124
CONFIDENCE = 0.95
CASES = ((9, 0.1), (99, 0.01), (150, 0.01), (299, 0.01), (999, 0.01), (59, 0.05), (99, 0.05), (499, 0.05))
SHOWN = (99, 0.05)


@dataclass(frozen=True)
class Simulated:
    """Simulated calibrations with n good images each for one target rate.

    Attributes:
        n: Number of good images per calibration.
        alpha: Target false-reject rate.
        rank: The threshold is the rank-th smallest score.
        rates: True false-reject rate of the threshold of each calibration, float64 [calibrations].
    """

    n: int
    alpha: float
    rank: int
    rates: npt.NDArray[np.float64]

    @property
    def bound(self) -> float:
        """Return the upper bound of the false-reject rate with confidence `CONFIDENCE`."""
        return confident_rate(self.n, self.rank, CONFIDENCE)


def simulate(n: int, alpha: float, calibrations: int = CALIBRATIONS, seed: int = SEED) -> Simulated:
    """Draw calibrations, derive their thresholds with the service's code, and compute the true rates."""
    rng = np.random.default_rng((seed, n, round(1 / alpha)))
    thresholds = [certify(row, alpha) for row in np.sort(rng.gamma(2.0, size=(calibrations, n)), axis=1).tolist()]
    levels = np.array([threshold.value for threshold in thresholds])
    # Gamma distribution with shape 2: P(score > x) = (1 + x) exp(-x).
    return Simulated(n, alpha, thresholds[0].rank, (1 + levels) * np.exp(-levels))


def table(results: Sequence[Simulated]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| n | α | guaranteed mean | simulated mean | 95 % bound | calibrations that keep it | worst of 1,000 |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in results:
        guaranteed = (item.n + 1 - item.rank) / (item.n + 1)
        kept = float((item.rates <= item.bound).mean())
        cells = [f"{value:.2%}" for value in (guaranteed, item.rates.mean(), item.bound)]
        lines.append(f"| {item.n} | {item.alpha:.0%} | {' | '.join(cells)} | {kept:.1%} | {item.rates.max():.2%} |")
    return "\n".join(lines) + "\n"


def figure(result: Simulated) -> str:
    """Return an SVG figure: a histogram of the true rates, their theoretical density and both guarantees."""
    width, height, left, bottom, top = 720, 320, 56, 44, 36
    edges = np.linspace(0, 0.16, 41)
    shares = np.histogram(result.rates, edges)[0] / len(result.rates)
    a, b = result.n + 1 - result.rank, result.rank
    middles = np.linspace(edges[0], edges[-1], 161)[1:]
    constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    law = np.exp(constant + (a - 1) * np.log(middles) + (b - 1) * np.log1p(-middles)) * (edges[1] - edges[0])
    highest = 1.1 * max(shares.max(), law.max())

    def x(rate: float) -> float:
        return round(float(left + rate / edges[-1] * (width - left - 16)), 1)

    def y(share: float) -> float:
        return round(float(height - bottom - share / highest * (height - bottom - top)), 1)

    bars = [
        f'<rect x="{x(low)}" y="{y(share)}" width="{round(x(high) - x(low) - 1, 1)}" '
        f'height="{round(y(0) - y(share), 1)}" fill="#8fb4d9"/>'
        for low, high, share in zip(edges[:-1], edges[1:], shares, strict=True)
        if share
    ]
    points = " ".join(f"{x(rate)},{y(value)}" for rate, value in zip(middles, law, strict=True))
    ticks = [
        f'<text x="{x(rate)}" y="{height - bottom + 18}" text-anchor="middle">{rate:.0%}</text>'
        for rate in np.arange(0, 0.161, 0.02)
    ]
    mean = (result.n + 1 - result.rank) / (result.n + 1)
    marks = [
        f'<line x1="{x(rate)}" y1="{top}" x2="{x(rate)}" y2="{y(0)}" stroke="{colour}" stroke-width="2"/>'
        f'<text x="{x(rate) + 6}" y="{top + 12}" fill="{colour}">{label}</text>'
        for rate, colour, label in (
            (mean, "#1a7f37", f"mean: at most {mean:.0%}"),
            (result.bound, "#b3261e", f"95 % of calibrations: at most {result.bound:.1%}"),
        )
    ]
    middle = (left + width) // 2
    title = (
        f"True false-reject rate of {len(result.rates)} thresholds from {result.n} good images each, "
        f"target {result.alpha:.0%}"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<style>text { font-size: 13px }</style>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="20">{title}</text>',
        *bars,
        f'<polyline points="{points}" fill="none" stroke="#1f3a5f" stroke-width="1.5"/>',
        f'<line x1="{left}" y1="{y(0)}" x2="{width - 16}" y2="{y(0)}" stroke="#444444"/>',
        *ticks,
        *marks,
        f'<text x="{middle}" y="{height - 8}" text-anchor="middle">share of good parts that fail</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def with_table(document: str, rows: str) -> str:
    """Return the document with its table replaced."""
    before, _, rest = document.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{rows}\n{END}{after}"


def main(write: Annotated[bool, typer.Option("--write", help="Write table and figure to docs/.")] = False) -> None:
    """Simulate all cases and print the table."""
    rows = table([simulate(n, alpha) for n, alpha in CASES])
    typer.echo(rows)
    if write:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_table(text, rows), encoding="utf-8")
        FIGURE.write_text(figure(simulate(*SHOWN)), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
