"""Measure the effect of an ROI on the false-reject rate that was certified on whole images, for two scores.

    python -m benchmarks.roi --write

The anomaly maps of good parts are smoothed noise. Thresholds are derived from whole maps, then only a corner of each
new map is judged. The service averages the same number of cells as for a whole map. The alternative, to average a fixed
share of the judged cells, is shown for comparison: it violates the bound. Prints the table; `--write` writes it to the
document.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from service.bundle.arrays import Float32Map
from service.bundle.manifest import ScoreRule
from service.inspection.area import BoolMask
from service.inspection.calibration import certify
from service.inspection.scoring import image_score

DOCUMENT = Path("docs/guarantee.md")
BEGIN, END = "<!-- made by benchmarks.roi -->", "<!-- end of what benchmarks.roi made -->"
SIDE = 32
RULE = ScoreRule(fraction=0.01)
ALPHA, IMAGES, PARTS, CALIBRATIONS = 0.05, 99, 100, 100
SHARES = (1.0, 0.5, 0.25, 0.1)
SEED = 20261125


@dataclass(frozen=True)
class Rates:
    """Mean false-reject rates with an ROI.

    Attributes:
        share: Share of the image inside the ROI.
        service: Rate with the score of the service.
        share_of_judged: Rate with the mean of a fixed share of the judged cells.
    """

    share: float
    service: float
    share_of_judged: float


def simulate(calibrations: int = CALIBRATIONS) -> list[Rates]:
    """Draw calibrations and parts, and judge the parts with every ROI."""
    rng = np.random.default_rng(SEED)
    masks = [corner(share) for share in SHARES]
    rejected = np.zeros((len(SHARES), 2))
    for _ in range(calibrations):
        level = certify(sorted(image_score(good, RULE) for good in _maps(rng, IMAGES)), ALPHA).value
        for part in _maps(rng, PARTS):
            for row, mask in zip(rejected, masks, strict=True):
                row += (image_score(part, RULE, mask) > level, _share_of_judged(part, mask) > level)
    rates = rejected / (calibrations * PARTS)
    return [Rates(share, *row) for share, row in zip(SHARES, rates.tolist(), strict=True)]


def corner(share: float) -> BoolMask:
    """Return a mask of a square corner with about this share of the map."""
    mask = np.zeros((SIDE, SIDE), np.bool_)
    side = round(SIDE * math.sqrt(share))
    mask[:side, :side] = True
    return mask


def table(rows: Sequence[Rates]) -> str:
    """Return the rates as a Markdown table."""
    lines = ["| judged | certified | as the service scores | highest 1 % of the judged cells |", "|---|---|---|---|"]
    lines += [f"| {row.share:.0%} | {ALPHA:.0%} | {row.service:.2%} | {row.share_of_judged:.2%} |" for row in rows]
    return "\n".join(lines)


def with_table(document: str, rows: str) -> str:
    """Return the document with this table between its markers."""
    head, rest = document.split(BEGIN)
    return f"{head}{BEGIN}\n\n{rows}\n\n{END}{rest.split(END)[1]}"


def _maps(rng: np.random.Generator, count: int) -> list[Float32Map]:
    noise = rng.gamma(2.0, size=(count, SIDE, SIDE)).astype(np.float32)
    return [np.asarray(cv2.GaussianBlur(one, (0, 0), 1.0), np.float32) for one in noise]


def _share_of_judged(anomaly_map: Float32Map, mask: BoolMask) -> float:
    cells = np.sort(anomaly_map[mask])
    return float(cells[-math.ceil(RULE.fraction * cells.size) :].mean())


def main(write: Annotated[bool, typer.Option(help="Write the table to docs/guarantee.md.")] = False) -> None:
    """Simulate every ROI and print the table."""
    rows = table(simulate())
    typer.echo(rows)
    if write:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
