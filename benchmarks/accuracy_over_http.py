"""Measure accuracy over HTTP: post every test image to a running service and fetch its anomaly map.

    plumbline serve --models MODELS &
    python -m benchmarks.accuracy_over_http --data DIR --product NAME [--url http://127.0.0.1:8000] [--out FILE.json]

The metrics are those of `training.metrics`, so the results are comparable with `plumbline-train evaluate`. The
thresholds are those of the product's recipe in the service.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from plumbline_client import Client
from training.dataset import TestImage, scan_test
from training.masks import read_mask
from training.metrics import PixelScores, auroc, average_precision, f1_max

console = Console()


def measure(client: Client, product: str, images: list[TestImage]) -> dict[str, Any]:
    """Post every image, fetch every anomaly map, and return the metrics by name.

    Args:
        client: Client of the running service.
        product: Product that the images show.
        images: Test images: at least one good and one defective image.
    """
    scores, verdicts, pixels, timings = [], Counter[tuple[bool, str]](), PixelScores(), []
    version = ""
    for image in track(images, "inspect", console=console):
        verdict = client.inspect(product, image.path.read_bytes(), part_id=f"{image.defect}/{image.path.stem}")
        version = verdict.bundle.version
        scores.append(verdict.score)
        verdicts[image.defective, verdict.decision] += 1
        timings.append(sum(verdict.timings_ms.values()))
        if image.mask is not None or not image.defective:
            mask = read_mask(image.mask, (verdict.image.width, verdict.image.height))
            pixels.add(client.anomaly_map(verdict.id), mask)
    defective = np.array([image.defective for image in images])
    good_count, bad_count = int((~defective).sum()), int(defective.sum())
    figures: dict[str, Any] = {
        "product": product,
        "version": version,
        "good": good_count,
        "defective": bad_count,
        "image_auroc": auroc(np.array(scores), defective),
        "image_average_precision": average_precision(np.array(scores), defective),
        "image_f1_max": f1_max(np.array(scores), defective),
        "false_reject_rate": verdicts[False, "fail"] / good_count,
        "good_review_rate": verdicts[False, "review"] / good_count,
        "miss_rate": verdicts[True, "pass"] / bad_count,
        "defective_review_rate": verdicts[True, "review"] / bad_count,
        "median_service_ms": float(np.median(timings)),
    }
    if pixels.regions:
        localised = pixels.figures()
        figures |= {
            "pixel_auroc": localised.auroc,
            "aupro": localised.aupro,
            "pixel_average_precision": localised.average_precision,
            "pixel_f1_max": localised.f1_max,
        }
    return figures


def main(
    data: Annotated[Path, typer.Option(help="MVTec-layout folder with test/good and test/<defect>.")],
    product: Annotated[str, typer.Option(help="Product in the running service.")],
    url: Annotated[str, typer.Option(help="URL of the service.")] = "http://127.0.0.1:8000",
    out: Annotated[Path | None, typer.Option(help="Also write the results to this JSON file.")] = None,
) -> None:
    """Measure the accuracy of a running service on labelled images."""
    with Client(url) as client:
        figures = measure(client, product, scan_test(data))
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    console.print(table)
    if out is not None:
        out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
