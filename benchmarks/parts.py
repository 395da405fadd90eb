"""Measure what the parts of a method contribute: the trained part alone, the memory banks alone, and both.

    plumbline-train compare --data DIR --methods drd --seeds 0 --out runs/compare
    python -m benchmarks.parts --data DIR --models runs/compare --out runs/parts

All rows come from one training. A bundle names the tensors that add up to its anomaly map (`Explanation` in
`service/bundle/manifest.py`). The sum over some of them is the map of a graph in which the others have a weight of 0,
up to a common factor, which changes none of these figures. One thing differs from a training with such weights, as the
settings files in `configs/ablations` describe it: the energy floor was selected with all parts.

Looks for fp32 bundles in all sub-folders of `--models` and runs each on the test images of its category in `--data`.
Writes `parts.md` and `parts.json`; a second start measures only bundles that are new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.measured_bundles import BundleRow, StoredRows, fp32_bundles, identity, table_head
from service.bundle.bundle import Bundle
from service.inspection.explanation.graph import ExplainedGraph
from service.inspection.runtime.session import SessionOptions
from service.inspection.scoring import image_score
from training.cli.progress import ProgressBars
from training.dataset import TestImage, load_prepared, read_size, scan_test
from training.files import write_text
from training.masks import read_mask
from training.metrics import PixelScores, auroc

PARTS = ("trained part", "memory banks", "both")


@dataclass(frozen=True)
class Row(BundleRow):
    """The parts of one bundle.

    Attributes:
        parts: Image AUROC and AUPRO by the name of the part, in 0..1; AUPRO is NaN without masks.
    """

    parts: Mapping[str, tuple[float, float]]


class _Part:
    """Accumulates scores and maps of one part."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.pixels = PixelScores()

    def figures(self, defective: NDArray[np.bool_]) -> tuple[float, float]:
        aupro = self.pixels.figures().aupro if self.pixels.regions else float("nan")
        return auroc(np.array(self.scores), defective), aupro


def measure(bundle: Bundle, images: Sequence[TestImage], threads: int = 1) -> Row:
    """Measure the parts of a bundle without tiling.

    Args:
        bundle: A bundle of any precision.
        images: Test images, at least one good and one defective.
        threads: CPU threads of the graph.

    Raises:
        ValueError: The bundle does not explain its maps, or its input has tiles.
    """
    manifest = bundle.manifest
    if manifest.explanation is None or manifest.input.tiling is not None:
        raise ValueError(f"bundle {bundle.version} does not explain its maps, or it has tiles")
    names = [source.name for source in manifest.explanation.sources]
    of_bank = np.isin(names, [bank.name for bank in manifest.explanation.banks])
    chosen = {"trained part": ~of_bank, "memory banks": of_bank, "both": np.ones(len(names), bool)}
    parts = {name: _Part() for name in PARTS if chosen[name].any()}
    graph = ExplainedGraph(bundle.read_model(), manifest.explanation, SessionOptions(provider="cpu", threads=threads))
    try:
        for image in images:
            explained = graph.run(load_prepared([image.path], manifest.input)[0])
            for name, part in parts.items():
                anomaly_map = explained.contributions[chosen[name]].sum(axis=0)
                part.scores.append(image_score(anomaly_map, manifest.score_rule))
                if image.mask is not None or not image.defective:
                    part.pixels.add(anomaly_map, read_mask(image.mask, read_size(image.path)))
    finally:
        graph.close()
    defective = np.array([image.defective for image in images])
    return Row(
        **identity(bundle),
        parts={name: part.figures(defective) for name, part in parts.items()},
    )


def markdown(rows: Sequence[Row]) -> str:
    """Format image AUROC / AUPRO in percent, the mean over the seeds, one line per method and part."""
    categories = list(dict.fromkeys(row.category for row in rows))
    head = ["method", "part", "seeds", *categories, "mean"]
    lines = table_head(head)
    for method in dict.fromkeys(row.method for row in rows):
        of_method = [row for row in rows if row.method == method]
        seeds = len({row.seed for row in of_method})
        for part in PARTS:
            found = {
                category: np.mean([row.parts[part] for row in chosen], axis=0)
                for category in categories
                if (chosen := [row for row in of_method if row.category == category and part in row.parts])
            }
            if not found:
                continue
            if len(found) == len(categories):  # a mean over fewer categories could not be compared with the others
                found["mean"] = np.mean(list(found.values()), axis=0)
            texts = [
                f"{100 * found[name][0]:.2f} / {100 * found[name][1]:.2f}" if name in found else "–"
                for name in (*categories, "mean")
            ]
            lines.append(f"| {' | '.join([method, part, str(seeds), *texts])} |")
    return "\n".join(lines) + "\n"


def main(
    data: Annotated[Path, typer.Option(help="Folder of MVTec-layout folders, one per category.")],
    models: Annotated[Path, typer.Option(help="Folder with bundles, for example that of a comparison.")],
    out: Annotated[Path, typer.Option(help="Folder of parts.md and parts.json.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Measure what the parts of the methods contribute."""
    stored = StoredRows(out / "parts.json", Row)
    rows: list[Row] = []
    with ProgressBars() as bars:
        bundles = list(fp32_bundles(models))
        advance = bars.stage("measure the parts", len(bundles))
        for number, bundle in enumerate(bundles, start=1):
            if bundle.digest not in stored.rows:
                stored.add(bundle, measure(bundle, scan_test(data / bundle.manifest.product), threads))
            rows.append(stored.rows[bundle.digest])
            advance(number, bundle.manifest.product)
    write_text(out / "parts.md", markdown(rows))
    typer.echo(markdown(rows))


if __name__ == "__main__":
    typer.run(main)
