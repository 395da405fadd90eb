"""Measure how many defective images among the good ones the image check names, and how many good images.

    python -m benchmarks.planted_defects --data DIR --products transistor --products screw --output planted.json

`DIR/PRODUCT` has the layout of MVTec AD. Defective test images, drawn at random, are copied beside the training images,
as many as `--share` of these, and `plumbline-train check-images` checks all of them together. Then it checks the
training images alone: whatever it names there is a false alarm, as far as the data set is clean. Prints a table.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from training.coarse_features import CoarseFeatures
from training.config import FitConfig
from training.dataset import find_good, scan_test
from training.files import write_text
from training.image_check.check import check_images
from training.image_check.sheet import shown_images
from training.methods import fit_config
from training.metrics import auroc
from training.teachers import Teacher, load_teacher


@dataclass(frozen=True)
class Outcome:
    """What the check of one product finds.

    Attributes:
        product: The folder.
        good: Number of good images.
        planted: Number of defective images among them.
        named: Number of defective images that are suspected.
        on_sheet: Number of defective images on the contact sheet.
        sheet: Number of images on the contact sheet.
        ranking: AUROC of the distances, defective against good images.
        beside: Number of good images that are suspected beside the defective ones.
        false_alarms: Number of good images that are suspected without defective ones among them.
    """

    product: str
    good: int
    planted: int
    named: int
    on_sheet: int
    sheet: int
    ranking: float
    beside: int
    false_alarms: int


def measure(teacher: Teacher, folder: Path, share: float, seed: int) -> Outcome:
    """Check the good images of a product with and without defective ones among them.

    Args:
        teacher: A frozen network.
        folder: The product, in the layout of MVTec AD.
        share: Number of defective images relative to that of the good ones, at least two images.
        seed: Seed of their choice.

    Raises:
        DataFolderMissing, NoImagesFound, UnreadableImage: See their messages.
    """
    _, good = find_good(folder)
    defective = sorted(image.path for image in scan_test(folder) if image.defective)
    planted = set(random.Random(seed).sample(defective, min(len(defective), max(2, round(share * len(good))))))
    features = CoarseFeatures(teacher)
    mixed = check_images(features, sorted([*good, *planted]))
    labels = torch.tensor([image.path in planted for image in mixed.images]).numpy()
    return Outcome(
        product=folder.name,
        good=len(good),
        planted=len(planted),
        named=_count(mixed.suspected, planted),
        on_sheet=_count([image.path for image in mixed.images[: shown_images(mixed)]], planted),
        sheet=shown_images(mixed),
        ranking=auroc(torch.tensor([image.distance for image in mixed.images]).numpy(), labels),
        beside=len(mixed.suspected) - _count(mixed.suspected, planted),
        false_alarms=len(check_images(features, good).suspected),
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    rows = [
        "| product | good images | planted | named | on the sheet | AUROC | good images named beside | clean: named |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {one.product} | {one.good} | {one.planted} | {one.named} | {one.on_sheet} of {one.sheet} | "
        f"{100 * one.ranking:.1f} | {one.beside} | {one.false_alarms} ({one.false_alarms / one.good:.1%}) |"
        for one in outcomes
    ]
    return "\n".join(rows)


def main(
    data: Annotated[Path, typer.Option(help="Folder of products in the layout of MVTec AD.")],
    products: Annotated[list[str] | None, typer.Option(help="Products; repeatable.", show_default="all")] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="Planted images relative to the good ones.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of their choice.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Also write the outcomes to this JSON file.")] = None,
) -> None:
    """Plant defective images, check, and print what was named."""
    torch.set_num_threads(threads)
    teacher = load_teacher(fit_config(FitConfig.method).teachers[0])
    names = products or sorted(path.name for path in data.iterdir() if (path / "train").is_dir())
    outcomes = []
    for name in names:
        outcomes.append(measure(teacher, data / name, share, seed))
        typer.echo(table(outcomes[-1:]).splitlines()[-1], err=True)
    typer.echo(table(outcomes))
    if output is not None:
        write_text(output, json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")


def _count(found: Sequence[Path], planted: set[Path]) -> int:
    return sum(path in planted for path in found)


if __name__ == "__main__":
    typer.run(main)
