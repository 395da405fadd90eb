"""Measure how many good parts of new lots fail, with and without calibration by groups.

    python -m benchmarks.groups --data DIR --product carpet

`DIR/PRODUCT` has the layout of MVTec AD, and the names of its good images begin with the name of their lot
(`lot7_03.jpg`). All good images of `train/good` and `test/good` are divided again for every seed, by lots (no
lot is in both halves, the situation of a new lot in production) or by images (most lots are in both halves). One half
is used for training and calibration with every value of `--groups`, and the images of the other half are judged with
the fail threshold of the calibration. With `--division given` the folder is used as it is, and only the held-out images
differ between seeds. Prints a table with one row per division and value.

By default the score is that of a memory bank alone, which needs no training, so that many divisions take minutes.
`--iterations` trains the default method instead, from the images to the bundle, which takes minutes per division.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Annotated

import numpy as np
import torch
import typer

from service.inspection.calibration import (
    CONFIDENCE,
    DEFAULT_FAIL_ALPHA,
    CertifiedThreshold,
    certify_nearest,
    new_group_rate,
)
from service.inspection.capture_groups import GroupChoice, group_images
from service.inspection.image_files import find_image_files
from service.inspection.inspector import Inspector
from training.cli.options import Groups
from training.coarse_features import SIDE, CoarseFeatures
from training.config import FitConfig
from training.dataset import scan, scan_test
from training.group_shift import bank_scores
from training.intervals import Interval, rate_interval
from training.methods import fit_config
from training.metrics import auroc
from training.pipeline import Advance, Request, inspector_options, train
from training.teachers import Teacher, load_teacher

REPLICATES = 2000  # of the bootstrap over divisions


class Division(StrEnum):
    """How good images are divided into those for training and those for the test."""

    LOTS = "lots"
    IMAGES = "images"
    GIVEN = "given"


@dataclass(frozen=True)
class Scores:
    """Scores of one calibration and of the images that are judged by it.

    Attributes:
        calibration: Scores of the calibration images.
        sizes: Number of calibration images of each group; a single number if no whole groups were held out.
        good: Scores of the good test images.
        defective: Scores of the defective test images.
    """

    calibration: list[float]
    sizes: list[int]
    good: list[float]
    defective: list[float]


Scorer = Callable[[Path, GroupChoice, int], Scores]


@dataclass(frozen=True)
class Outcome:
    """The false rejects of one calibration.

    Attributes:
        groups: Number of groups of the calibration images; 1 if no whole groups were held out.
        threshold: The fail threshold with its bounds.
        new_group: The bound for a part of a new group; not less than 1/2 without groups.
        rejected: Number of good test images that fail.
        good: Number of good test images.
        image_auroc: AUROC of the image scores.
    """

    groups: int
    threshold: CertifiedThreshold
    new_group: float
    rejected: int
    good: int
    image_auroc: float

    @classmethod
    def of(cls, scores: Scores) -> Outcome:
        """Derive the fail threshold as the service does, and count the false rejects."""
        threshold = certify_nearest(sorted(scores.calibration), DEFAULT_FAIL_ALPHA)
        labels = np.repeat([False, True], [len(scores.good), len(scores.defective)])
        return cls(
            groups=len(scores.sizes),
            threshold=threshold,
            new_group=new_group_rate(scores.sizes, threshold.rank),
            rejected=sum(score > threshold.value for score in scores.good),
            good=len(scores.good),
            image_auroc=auroc(np.array(scores.good + scores.defective), labels),
        )

    @property
    def rate(self) -> float:
        """Return the share of good test images that fail."""
        return self.rejected / self.good

    @property
    def exceeds(self) -> bool:
        """Return whether this share is above the bound for this calibration."""
        return self.rate > self.threshold.confident_rate(CONFIDENCE)


class BankScorer:
    """Scores by a memory bank of the training images. The features of an image are computed once.

    Args:
        teacher: A frozen network.
        side: Side of the copies of the images that are compared, pixels; a multiple of 16.
    """

    def __init__(self, teacher: Teacher, side: int = SIDE) -> None:
        self._features = CoarseFeatures(teacher, side)

    def __call__(self, data: Path, groups: GroupChoice, seed: int) -> Scores:
        """Hold out calibration images as training does, and score them and the test images."""
        found, test = scan(data, seed=seed, groups=groups), scan_test(data)
        scored = [*found.held_out, *(image.path for image in test)]
        banked, judging = (self._features.of([path.resolve() for path in paths]) for paths in (found.fitted, scored))
        scores = bank_scores([banked], judging)
        calibration, judged = scores[: len(found.held_out)], scores[len(found.held_out) :]
        return Scores(
            calibration=calibration,
            sizes=list(found.groups.values()),
            good=[score for score, image in zip(judged, test, strict=True) if not image.defective],
            defective=[score for score, image in zip(judged, test, strict=True) if image.defective],
        )


class TrainedScorer:
    """Scores by a bundle that is trained on every division.

    Args:
        config: Settings of the training.
    """

    def __init__(self, config: FitConfig) -> None:
        self._config = config

    def __call__(self, data: Path, groups: GroupChoice, seed: int) -> Scores:
        """Train a bundle, and score the test images with the code of the service."""
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            request = Request(
                data=data,
                product="product",
                models=work / "models",
                run_dir=work / "run",
                config=replace(self._config, seed=seed),
                groups=groups,
                allow_weak=True,
            )
            trained = train(request, _Silent())
            inspector = Inspector.load(trained.bundle.path, inspector_options(self._config.threads))
            try:
                judged = [(image, inspector.measure(image.path.read_bytes()).score) for image in trained.data.test]
            finally:
                inspector.close()
        return Scores(
            calibration=list(trained.bundle.card.scores),
            sizes=[group.count for group in trained.bundle.card.groups],
            good=[score for image, score in judged if not image.defective],
            defective=[score for image, score in judged if image.defective],
        )


class _Silent:
    """Shows nothing of the progress of the pipeline."""

    def note(self, text: str) -> None:
        """Ignore a line of text."""

    def stage(self, title: str, total: int) -> Advance:
        """Return a function that ignores the progress of a stage."""
        del title, total
        return _ignore


def _ignore(done: int, note: str) -> None:
    del done, note


def divide(product: Path, target: Path, division: Division, seed: int) -> None:
    """Write a folder in MVTec layout, of links, whose good images are divided anew.

    Args:
        product: The folder of the product.
        target: The folder to write.
        division: By lots, by images, or as given.
        seed: Seed of the division.

    Raises:
        typer.BadParameter: The names of the images do not separate lots.
    """
    good = [path for part in ("train", "test") for path in find_image_files(product / part / "good")]
    grouping = group_images([PurePath(path.name) for path in good], "prefix")
    if grouping.grouped_by == "none":
        raise typer.BadParameter(f"the names of the good images in {product} have no common prefixes that are lots")
    rng = random.Random(seed)
    if division is Division.LOTS:
        lots = sorted(set(grouping.names))
        chosen_lots = set(rng.sample(lots, (len(lots) + 1) // 2))
        chosen = {path for path, lot in zip(good, grouping.names, strict=True) if lot in chosen_lots}
    elif division is Division.IMAGES:
        chosen = set(rng.sample(good, (len(good) + 1) // 2))
    else:
        chosen = set(find_image_files(product / "train" / "good"))
    for part in ("train", "test"):
        (target / part / "good").mkdir(parents=True)
    for path in good:
        # The names of one lot are unique, and a lot is in one part of the original folder.
        (target / ("train" if path in chosen else "test") / "good" / path.name).symlink_to(path.resolve())
    for folder in (product / "test").iterdir():
        if folder.is_dir() and folder.name != "good":
            (target / "test" / folder.name).symlink_to(folder.resolve())


def measure(
    product: Path, scorer: Scorer, division: Division, choices: Sequence[GroupChoice], seeds: Sequence[int]
) -> dict[GroupChoice, list[Outcome]]:
    """Judge the test images of every division with every choice of groups.

    Args:
        product: The folder of the product.
        scorer: Calibrates and scores.
        division: By lots, by images, or as given.
        choices: Values of `--groups`; all are measured on the same divisions.
        seeds: One division and one selection of held-out images per seed.
    """
    outcomes: dict[GroupChoice, list[Outcome]] = {choice: [] for choice in choices}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            divide(product, Path(folder), division, seed)
            for choice in choices:
                outcomes[choice].append(Outcome.of(scorer(Path(folder), choice, seed)))
    return outcomes


NEW_IMAGES = {
    Division.LOTS: "other lots",
    Division.IMAGES: "other images",
    Division.GIVEN: "test/good",
}
COLUMNS = (
    *("product", "new images", "`--groups`", "held-out groups", "n", "bound on average", "for a new group"),
    *("good parts that fail", "highest", "calibrations above their 95 % bound", "image AUROC"),
)


def table_row(product: str, division: Division, choice: GroupChoice, outcomes: Sequence[Outcome]) -> str:
    """Return a row of the Markdown table.

    Numbers are means over the divisions. In brackets: the 95 % interval of the mean rate (bootstrap over the divisions)
    and of the share of calibrations (Clopper-Pearson).
    """
    rates = np.array([outcome.rate for outcome in outcomes])
    above = sum(outcome.exceeds for outcome in outcomes)

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    cells = [
        product,
        NEW_IMAGES[division],
        choice,
        f"{mean([outcome.groups for outcome in outcomes]):.1f}" if choice != "none" else "–",
        f"{mean([outcome.threshold.n for outcome in outcomes]):.0f}",
        f"{mean([outcome.threshold.expected_rate for outcome in outcomes]):.1%}",
        f"{mean([outcome.new_group for outcome in outcomes]):.0%}" if choice != "none" else "–",
        f"{rates.mean():.1%} {_brackets(_mean_interval(rates))}",
        f"{rates.max():.1%}",
        f"{above} of {len(outcomes)} {_brackets(rate_interval(above, len(outcomes)))}",
        f"{mean([outcome.image_auroc for outcome in outcomes]):.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def _mean_interval(values: np.ndarray) -> Interval:
    draws = np.random.default_rng(0).choice(values, (REPLICATES, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _brackets(interval: Interval) -> str:
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def main(
    data: Annotated[Path, typer.Option(help="Folder with the products, in MVTec layout.")],
    product: Annotated[list[str], typer.Option(help="Product, a folder of --data; repeatable.")],
    division: Annotated[
        list[Division] | None, typer.Option(help="By lots, by images, or as given; repeatable.", show_default="all")
    ] = None,
    groups: Annotated[
        list[Groups] | None, typer.Option(help="Value of --groups; repeatable.", show_default="none and prefix")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of divisions.")] = 30,
    teacher: Annotated[str | None, typer.Option(help="Frozen network.", show_default="the method's default")] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Train this number of steps.", show_default="memory bank alone")
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the input with --iterations, pixels.", show_default="the default")
    ] = None,
) -> None:
    """Measure all divisions of all products and print the table."""
    config = fit_config(
        FitConfig.method,
        teachers=(teacher,) if teacher else None,
        input_size=input_size,
        iterations=iterations,
        threads=torch.get_num_threads(),
    )
    scorer: Scorer
    scorer = BankScorer(load_teacher(config.teachers[0])) if iterations is None else TrainedScorer(config)
    choices: list[GroupChoice] = [choice.value for choice in groups or (Groups.NONE, Groups.PREFIX)]
    typer.echo(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for name in product:
        for by in division or list(Division):
            for choice, outcomes in measure(data / name, scorer, by, choices, range(seeds)).items():
                typer.echo(table_row(name, by, choice, outcomes))


if __name__ == "__main__":
    typer.run(main)
