"""`make demo-train`: train, evaluate and serve a product of real images.

    python -m training.demo.elpv [--out runs/elpv] [--keep]

The images are electroluminescence images of solar cells (300 x 300, from the package `elpv-dataset`), labelled with the
probability of a defect. The product is the monocrystalline cells; polycrystalline cells would be another product. Only
unambiguous labels are used: probability 0 is good, 1 is defective. There are no masks, so pixel figures are omitted.

The package lists the cells module by module, and the visibility of defects differs between modules: in some, cells are
cracked and dark, in others the label stands for a loss of power that the image hardly shows. The defective cells are
therefore grouped by run of consecutive monocrystalline cells in the list, and the evaluation has a row for each run.
"""

import csv
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

NOTICE = (
    "The ELPV data set (Deitsch, Buerhop-Lutz, Maier, Gallwitz, Riess; ZAE Bayern) is licensed CC BY-NC-SA 4.0. It is "
    "used here to try the software, not commercially: keep the images and the models trained on them on this machine."
)
PRODUCT = "solar-cell"
# 105 of 350 are held out, which certifies a false-reject rate of 1 %; 245 remain for training.
GOOD_FOR_TRAINING = 350
HELD_OUT = 0.3
SAMPLES_EACH = 3

console = Console(highlight=False)


@dataclass(frozen=True)
class Cell:
    """One row of the package's labels."""

    path: Path
    defect_probability: float
    kind: str
    run: int  # number, from 1, of its run of consecutive cells of this kind


def read_labels(folder: Path) -> list[Cell]:
    """Read the rows of `labels.csv`, whose columns are separated by one or more blanks.

    Args:
        folder: The data folder of the package.
    """
    with (folder / "labels.csv").open(newline="") as file:
        rows = [
            [field.strip() for field in row] for row in csv.reader(file, delimiter=" ", skipinitialspace=True) if row
        ]
    cells: list[Cell] = []
    runs: Counter[str] = Counter()
    for path, probability, kind in rows:
        if not cells or cells[-1].kind != kind:
            runs[kind] += 1
        cells.append(Cell(folder / path, float(probability), kind, runs[kind]))
    return cells


def unpack(cells: Sequence[Cell], target: Path, *, training: int = GOOD_FOR_TRAINING, seed: int = 0) -> None:
    """Copy the unambiguously labelled monocrystalline cells into an MVTec-layout folder.

    Args:
        cells: All cells.
        target: The folder to write; an existing one is replaced.
        training: Number of good cells for train/good; the others go to test/good.
        seed: Seed of that selection.
    """
    good = [cell.path for cell in cells if cell.kind == "mono" and cell.defect_probability == 0]
    random.Random(seed).shuffle(good)
    folders = {"train/good": good[:training], "test/good": good[training:]}
    for cell in cells:
        if cell.kind == "mono" and cell.defect_probability == 1:
            folders.setdefault(f"test/defective-run{cell.run}", []).append(cell.path)
    shutil.rmtree(target, ignore_errors=True)
    for folder, paths in folders.items():
        (target / folder).mkdir(parents=True)
        for path in paths:
            shutil.copyfile(path, target / folder / path.name)


def pick_samples(data: Path, target: Path) -> None:
    """Copy a few test images of each kind, named by their kind, for the service to inspect."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for kind in ("good", "defective"):
        for path in sorted((data / "test").glob(f"{kind}*/*"))[:SAMPLES_EACH]:
            shutil.copyfile(path, target / f"{kind}-{path.name}")


def main(
    out: Annotated[Path, typer.Option(help="Folder of images, model and report; git ignores runs/.")] = Path(
        "runs/elpv"
    ),
    iterations: Annotated[
        int | None, typer.Option(help="Number of training steps.", show_default="the method's default")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the service running until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="TCP port of the service; if it is in use, a free port is taken.")] = 8000,
) -> None:
    """Train on solar cells, evaluate, serve the product and inspect a few cells over HTTP."""
    if find_spec("elpv_dataset") is None:
        console.print("[red]error:[/] the package elpv-dataset is missing; install it with: pip install '.\\[demo]'")
        raise typer.Exit(2)
    console.print(f"[bold]Licence notice.[/] {NOTICE}\n")
    data, models, samples = out / "cells", out / "models", out / "samples"
    unpack(read_labels(Path(str(files("elpv_dataset"))) / "data"), data)
    shutil.rmtree(models, ignore_errors=True)
    steps = [] if iterations is None else ["--iterations", str(iterations)]
    _run(
        "training.cli.main",
        *("fit", "--data", data, "--product", PRODUCT, "--models", models, "--run-dir", out / "run"),
        *("--held-out", HELD_OUT, *steps),
    )
    _run(
        "training.cli.main",
        *("evaluate", "--bundle", models / PRODUCT, "--data", data, "--out", out / "evaluation"),
    )
    pick_samples(data, samples)
    _run(
        "service.cli.demo",
        *("--models", models, "--samples", samples, "--product", PRODUCT, "--out", out / "served", "--port", port),
        *(["--keep"] if keep else []),
    )


def _run(module: str, *arguments: object) -> None:
    """Run one of this project's programs in a process of its own and exit with its code if it fails."""
    result = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=False)
    if result.returncode != 0:
        console.print(f"[red]error:[/] {escape(module)} failed with exit code {result.returncode}.")
        raise typer.Exit(result.returncode)


if __name__ == "__main__":
    typer.run(main)
