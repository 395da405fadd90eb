"""Measure what the penalty of unsupported prototypes costs on clean images and gains on contaminated ones.

    python -m benchmarks.bank_penalties --data DIR --products screw --products carpet --products commutator

A memory bank alone (the features of the image check, 2048 prototypes) is built of the training images, and of these
together with defective test images, as many as `--share` of them. It scores the other test images, with every share of
prototypes without a penalty (`BankVariant.supported`; 1: no penalties). Prints a table of image AUROCs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from training.coarse_features import CoarseFeatures
from training.config import FitConfig
from training.dataset import find_good, scan_test
from training.memory_bank import BankVariant, MemoryBank
from training.methods import fit_config
from training.metrics import auroc
from training.teachers import Teacher, load_teacher

PROTOTYPES, CANDIDATES = 2048, 40_000
ENERGY_FLOOR = 0.3
TOP_FRACTION = 0.01  # of the cells of an image: their mean is its score


@torch.no_grad()
def image_aurocs(banked: Tensor, scored: Tensor, defective: Sequence[bool], shares: Sequence[float]) -> list[float]:
    """Return the image AUROC of a memory bank for every share of prototypes without a penalty.

    Args:
        banked: Descriptors of the images of the bank, float32 `[n, C, H, W]`.
        scored: Descriptors of the images to score, float32 `[N, C, H, W]`.
        defective: Which of these are defective.
        shares: Values of `BankVariant.supported`.
    """
    bank = MemoryBank([banked.shape[1]], PROTOTYPES)
    bank.collect([[banked]], len(banked))
    found = []
    for share in shares:
        bank.select(BankVariant(ENERGY_FLOOR, supported=share), CANDIDATES)
        distances = torch.cat([bank([part]).flatten(1) for part in torch.split(scored, 16)])
        scores = distances.topk(max(1, round(TOP_FRACTION * distances.shape[1])), dim=1).values.mean(1)
        found.append(auroc(scores.numpy(), np.array(defective)))
    return found


def measure(
    teacher: Teacher, folder: Path, shares: Sequence[float], planted_share: float, seed: int
) -> tuple[list[float], list[float]]:
    """Return the image AUROCs without and with planted defective images, for every share.

    Args:
        teacher: A frozen network.
        folder: The product, in the layout of MVTec AD.
        shares: Values of `BankVariant.supported`.
        planted_share: Number of planted images relative to that of the good ones, at least two images.
        seed: Seed of their choice.

    Raises:
        DataFolderMissing, NoImagesFound, UnreadableImage: See their messages.
    """
    features = CoarseFeatures(teacher)
    _, good = find_good(folder)
    test = scan_test(folder)
    bad = sorted(image.path for image in test if image.defective)
    planted = random.Random(seed).sample(bad, min(len(bad) // 2, max(2, round(planted_share * len(good)))))
    judged = [image for image in test if image.path not in set(planted)]
    scored, defective = features.of([image.path for image in judged]), [image.defective for image in judged]
    banked = features.of(good)
    clean = image_aurocs(banked, scored, defective, shares)
    return clean, image_aurocs(torch.cat([banked, features.of(planted)]), scored, defective, shares)


def main(
    data: Annotated[Path, typer.Option(help="Folder of products in the layout of MVTec AD.")],
    products: Annotated[list[str], typer.Option(help="Products; repeatable.")],
    shares: Annotated[list[float] | None, typer.Option(help="Shares; repeatable.", show_default="1.0 0.9 0.75")] = None,
    planted: Annotated[float, typer.Option(min=0, max=1, help="Planted images relative to the good ones.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of their choice.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Measure and print the table."""
    torch.set_num_threads(threads)
    chosen = shares or [1.0, 0.9, 0.75]
    teacher = load_teacher(fit_config(FitConfig.method).teachers[0])
    typer.echo("| product | training images |" + "".join(f" {share:g} |" for share in chosen))
    typer.echo("|---|---|" + "---|" * len(chosen))
    for name in products:
        for kind, row in zip(
            ("clean", "with planted defects"), measure(teacher, data / name, chosen, planted, seed), strict=True
        ):
            typer.echo(f"| {name} | {kind} |" + "".join(f" {100 * value:.2f} |" for value in row))


if __name__ == "__main__":
    typer.run(main)
