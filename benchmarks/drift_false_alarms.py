"""Simulate drift monitoring: false alarms of stationary streams, and how soon changes are found.

    python -m benchmarks.drift_false_alarms --write          # takes some minutes
    PLUMBLINE_TEST_DATA=... python -m benchmarks.drift_false_alarms --images

Every stream has a calibration of its own, drawn from the same distribution as its inspections. The simulation uses the
bets of `service.monitoring.drift` for many streams at once. Prints the tables; `--write` writes them to docs/drift.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import typer

from service.inspection.image_files import find_image_files
from service.inspection.measures import measure_quality
from service.monitoring.drift import rejects
from service.monitoring.drift.detector import Detector
from service.monitoring.drift.ranks import BET_WEIGHTS, Ranks, interval_bets, tie_key
from service.monitoring.drift.records import IMAGE_KINDS
from service.monitoring.drift.streams import MEASURES

DOCUMENT = Path("docs/drift.md")
BEGIN, END = "<!-- made by benchmarks.drift_false_alarms -->", "<!-- until here -->"
SEED = 20261128
STREAMS = 100_000
"""Streams of ranks, and as many of reject rates, divided among the cases."""
YEAR = 1000
"""Inspections of a simulated year, which is also the limit. The bound does not depend on the number."""
LIMIT = 1e7
REJECT_LIMIT = 5e4
MOST_PARTS = 3000
FOUND_STREAMS = 2000
RANK_CASES: tuple[tuple[int, int | None, float], ...] = (
    (10, None, 1.0),
    (20, None, 1.0),
    (20, 8, 1.0),
    (99, None, 0.99),
    (200, None, 1.0),
)
"""Number of calibration images, of different scores (None: all differ), and share of them that is not rejected."""
REJECT_RATES = (0.001, 0.01, 0.05, 0.2)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stationary:
    """False alarms of streams in which nothing changes.

    Attributes:
        streams: Number of streams.
        alarms: Number of false alarms per stream in a simulated year.
        naive: The same if p-values of the fixed calibration were treated as independent.
    """

    streams: int
    alarms: float
    naive: float


@dataclass(frozen=True)
class LightChange:
    """How a change of the light is found.

    Attributes:
        product: Name of the data set.
        factor: Factor of the light.
        images: Number of good images.
        parts: Number of parts until the first alarm; infinite without one.
        before: Largest wealth before the change.
    """

    product: str
    factor: float
    images: int
    parts: float
    before: float


class _Wealth:
    """Wealth of many streams at once; the same computation as `Detector`."""

    def __init__(self, streams: int, weights: tuple[float, ...]) -> None:
        self._weights = np.array(weights)
        self._wealth = np.zeros((streams, len(weights)))

    def update(self, bets: Floats, limit: float) -> npt.NDArray[np.bool_]:
        """Return the streams that raise an alarm; they start anew."""
        self._wealth = (self._wealth + 1) * bets
        alarms: npt.NDArray[np.bool_] = self._wealth @ self._weights >= limit
        self._wealth[alarms] = 0
        return alarms


def stationary_ranks(
    n: int, streams: int, inspections: int = YEAR, levels: int | None = None, accepted: float = 1.0, seed: int = SEED
) -> Stationary:
    """Simulate the ranks of streams in which nothing changes.

    Args:
        n: Number of calibration images.
        streams: Number of streams.
        inspections: Inspections of a year, and the limit.
        levels: Number of different scores, for ties; None for continuous scores.
        accepted: Only scores below this share of the n calibration scores, rounded up, are compared, as below a fail
            threshold; 1: all.
        seed: Seed of the random numbers.
    """
    rng = np.random.default_rng((seed, n, levels or 0))

    def draw(*size: int) -> Floats:
        if levels is None:
            return rng.random(size)
        # The fraction orders equal scores at random.
        return np.floor(rng.random(size) * levels) + 0.5 * rng.random(size)

    scores = np.sort(draw(streams, n), axis=1)
    masses, threshold = np.ones((streams, n + 1)), np.full(streams, np.inf)
    if accepted < 1:
        threshold = (
            np.floor(scores[:, int(np.ceil(accepted * n)) - 1]) if levels else scores[:, int(np.ceil(accepted * n)) - 1]
        )
        below = (scores < threshold[:, None]).sum(axis=1)
        masses[np.arange(n + 1) > below[:, None]] = 0
    fixed, every = masses.copy(), np.arange(n + 1)
    exact, naive, rows = _Wealth(streams, BET_WEIGHTS), _Wealth(streams, BET_WEIGHTS), np.arange(streams)
    found = [0, 0]
    for _ in range(inspections):
        values = draw(streams)
        index = (scores < values[:, None]).sum(axis=1)
        is_accepted = values < threshold
        above = every > index[:, None]
        for number, (wealth, mass) in enumerate(((exact, masses), (naive, fixed))):
            high, own, total = (mass * above).sum(axis=1), mass[rows, index], mass.sum(axis=1)
            own = np.where(is_accepted, own, 1)
            bets = np.where(is_accepted[:, None], interval_bets(high / total, (high + own) / total), 1)
            found[number] += int(wealth.update(bets, inspections).sum())
        masses[rows[is_accepted], index[is_accepted]] += 1
    return Stationary(streams, found[0] / streams, found[1] / streams)


def stationary_rejects(rate: float, streams: int, inspections: int = YEAR, seed: int = SEED) -> Stationary:
    """Simulate the reject rate of streams in which nothing changes.

    Args:
        rate: The reject rate.
        streams: Number of streams.
        inspections: Inspections of a year, and the limit.
        seed: Seed of the random numbers.
    """
    rng = np.random.default_rng((seed, round(1e6 * rate)))
    wealth, found, seen = _Wealth(streams, rejects.BET_WEIGHTS), 0, np.zeros(streams)
    for count in range(inspections):
        is_reject = rng.random(streams) < rate
        found += int(wealth.update(rejects.reject_bets(count, seen, is_reject), inspections).sum())
        seen += is_reject
    return Stationary(streams, found / streams, float("nan"))


def reject_step(
    before: float, after: float, streams: int, history: int, limit: float = REJECT_LIMIT, seed: int = SEED
) -> float:
    """Return the median number of parts after a step of the reject rate until the alarm.

    Args:
        before: The rate before the step.
        after: The rate after it.
        streams: Number of streams.
        history: Inspections before the step.
        limit: Wealth at which an alarm is raised.
        seed: Seed of the random numbers.
    """
    rng = np.random.default_rng((seed, history))
    wealth, seen, parts = _Wealth(streams, rejects.BET_WEIGHTS), np.zeros(streams), np.full(streams, np.inf)
    for count in range(history + MOST_PARTS):
        is_reject = rng.random(streams) < (before if count < history else after)
        alarms = wealth.update(rejects.reject_bets(count, seen, is_reject), limit)
        seen += is_reject
        if count >= history:
            parts[alarms] = np.minimum(parts[alarms], count - history + 1)
    return float(np.median(parts))


def rank_shift(
    n: int, shift: float, streams: int, history: int, limit: float = LIMIT, seed: int = SEED
) -> tuple[float, float]:
    """Return the median number of parts until a shift of a normal distribution is found, and the error of its start.

    Args:
        n: Number of calibration images.
        shift: Shift, in standard deviations.
        streams: Number of streams.
        history: Inspections before the shift.
        limit: Wealth at which an alarm is raised.
        seed: Seed of the random numbers.

    Returns:
        Medians of the number of parts, and of the distance between the estimated and the true start, in parts.
    """
    rng = np.random.default_rng((seed, n, history))
    parts, errors = [], []
    for stream in range(streams):
        found, detector = Ranks.of(rng.normal(size=n).tolist(), f"{stream}"), Detector(BET_WEIGHTS)
        values = rng.normal(size=history + MOST_PARTS)
        values[history:] += shift
        count = 0
        for count, value in enumerate(values.tolist(), 1):
            detector.update(found.add(value, tie_key(stream, count)), count)
            if detector.wealth >= limit:
                break
        parts.append(count - history if detector.wealth >= limit else np.inf)
        errors.append(abs((detector.onset or 0) - history - 1))
    return float(np.median(parts)), float(np.median(errors))


def light_change(product: Path, factor: float, n: int, limit: float = LIMIT, seed: int = SEED) -> LightChange:
    """Return how soon a change of the light is found in real images, by the streams of image quality.

    n of the good images are the calibration, the others are inspected first. Then images drawn from all of them are
    inspected with every pixel multiplied by the factor.

    Args:
        product: Folder of a data set in the layout of MVTec.
        factor: Factor of the light.
        n: Number of calibration images.
        limit: Wealth at which an alarm is raised.
        seed: Seed of the random order.
    """
    rng = np.random.default_rng((seed, n))
    images = list(_good_images(product))
    order = rng.permutation(len(images)).tolist()
    later = rng.integers(0, len(images), MOST_PARTS).tolist()
    usual = [measure_quality(image) for image in images]
    changed = [measure_quality(np.clip(image * factor, 0, 255).astype(np.uint8)) for image in images]
    parts, highest = float("inf"), 0.0
    for kind in IMAGE_KINDS:
        for measure in MEASURES[kind]:
            values = [getattr(usual[index], measure) for index in order]
            found, detector = Ranks.of(values[:n], measure), Detector(BET_WEIGHTS)
            for number, value in enumerate(values[n:]):
                detector.update(found.add(value, tie_key(measure, number)), number)
                highest = max(highest, detector.wealth)
            detector.reset()
            for number, index in enumerate(later, 1):
                detector.update(found.add(getattr(changed[index], measure), tie_key(measure, -number)), number)
                if detector.wealth >= limit:
                    parts = min(parts, number)
                    break
    return LightChange(product.name, factor, len(images), parts, highest)


def _good_images(product: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the good images at a size as of a network's input, uint8 [256, 256, 3]."""
    for folder in ("train/good", "test/good"):
        for path in find_image_files(product / folder):
            stored = cv2.imread(str(path))
            assert stored is not None, path
            image = cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
            yield cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA).astype(np.uint8)


def tables(streams: int = STREAMS) -> str:
    """Simulate all cases and return the tables.

    Args:
        streams: Number of streams; see `STREAMS`.
    """
    lines = ["| streams | nothing changes | false alarms per stream and year | with p-values taken as independent |"]
    lines += ["|---|---|---|---|"]
    share = streams // len(RANK_CASES)
    for n, levels, accepted in RANK_CASES:
        pieces = [
            stationary_ranks(n, size, levels=levels, accepted=accepted, seed=seed) for size, seed in _pieces(share)
        ]
        ties = "" if levels is None else f", {levels} different scores"
        rejected = "" if accepted == 1 else f", parts above the {math.ceil(accepted * n)}th score rejected"
        alarms, naive = (np.mean([getattr(piece, name) for piece in pieces]) for name in ("alarms", "naive"))
        lines.append(f"| {share:,} | scores, n = {n}{ties}{rejected} | {alarms:.2f} (at most 1) | {naive:.2f} |")
    share = streams // len(REJECT_RATES)
    for rate in REJECT_RATES:
        alarms = np.mean([stationary_rejects(rate, size, seed=seed).alarms for size, seed in _pieces(share)])
        lines.append(f"| {share:,} | reject rate {100 * rate:g} % | {alarms:.2f} (at most 1) | |")
    lines += ["", "| change | inspections before it | parts until the alarm, median |", "|---|---|---|"]
    for history in (500, 2000, 10_000):
        parts = reject_step(0.01, 0.03, FOUND_STREAMS, history)
        lines.append(f"| reject rate 1 % → 3 % | {history:,} | {parts:.0f} |")
    for n, shift, history in ((20, 1.0, 1000), (20, 3.0, 0), (20, 3.0, 1000), (100, 1.0, 1000), (100, 3.0, 0)):
        parts, error = rank_shift(n, shift, 200, history)
        text = "not found" if math.isinf(parts) else f"{parts:.0f}, start exact to {error:.0f} parts"
        lines.append(
            f"| scores rise by {shift:g} standard deviation{'s' * (shift != 1)}, n = {n} | {history:,} | {text} |"
        )
    return "\n".join(lines)


def _pieces(streams: int) -> list[tuple[int, int]]:
    """Return number of streams and seed of pieces that fit into memory."""
    size = min(streams, 5000)
    return [(size, SEED + number) for number in range(streams // size)]


def with_tables(text: str, rows: str) -> str:
    """Return a document with its tables replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{rows}\n\n{END}{after}"


def main(
    write: Annotated[bool, typer.Option("--write", help="Write the tables to docs/.")] = False,
    images: Annotated[
        bool, typer.Option("--images", help="Change the light of the images of PLUMBLINE_TEST_DATA.")
    ] = False,
) -> None:
    """Simulate all cases and print the tables."""
    if images:
        for product in sorted(path.parent for path in Path(os.environ["PLUMBLINE_TEST_DATA"]).glob("*/train")):
            for factor in (1.15, 0.85):
                found = light_change(product, factor, n=20)
                typer.echo(f"{found.product}: light x {factor}, found after {found.parts:g} parts")
        return
    rows = tables()
    typer.echo(rows)
    if write:
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
