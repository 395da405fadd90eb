"""Compare the latency of a bundle's graph with that of its teacher alone.

    python -m benchmarks.graph_vs_teacher --bundle models/washer [--threads 2] [--rounds 100] [--out FILE.json]

The teacher is exported up to the last stage that the method uses. Both graphs run in ONNX Runtime on the CPU, in
alternation, so that other load on the machine affects both equally. The medians are compared.
"""

import json
import platform
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from service.bundle.bundle import Bundle, newest_bundle
from service.bundle.manifest import MANIFEST
from service.inspection.runtime.session import GraphSession, SessionOptions, session_options
from training.export import to_onnx
from training.pixels import to_pixels
from training.teachers import random_teacher

WARM_UP = 5  # runs of each graph before the measurement

console = Console()


class _TeachersAlone(nn.Module):
    """The teachers without the method. Only the features of the last stage are outputs of the graph.

    They depend on all earlier stages; copying the features of those as well would add to the measured time.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        # The weights have no effect on the speed, so random ones are sufficient.
        self.teachers = nn.ModuleList(random_teacher(name) for name in names)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        pixels = to_pixels(image)
        return tuple(teacher(pixels)[-1] for teacher in self.teachers)


def measure(bundle: Bundle, *, threads: int, rounds: int, batch: int) -> dict[str, Any]:
    """Return the median latency of graph and teacher in milliseconds, and how they were measured.

    Args:
        bundle: Bundle with the graph; its manifest lists the teachers.
        threads: Number of CPU threads per run.
        rounds: Number of measured runs of each graph.
        batch: Number of images per run.
    """
    size = bundle.manifest.input
    images = np.random.default_rng(0).integers(0, 256, (batch, size.height, size.width, 3), dtype=np.uint8)
    options = SessionOptions(provider="cpu", threads=threads)
    graph = GraphSession(bundle.read_model(), options)
    teachers = bundle.manifest.teachers
    alone = ort.InferenceSession(
        to_onnx(_TeachersAlone(teachers).eval(), images, [f"features_{name}" for name in teachers]),
        session_options(options),
        providers=["CPUExecutionProvider"],
    )
    seconds = np.empty((rounds + WARM_UP, 2))
    for row in seconds:
        row[0] = _timed(lambda: graph.run(images))
        row[1] = _timed(lambda: alone.run(None, {"image": images}))
    return _summary(bundle, seconds[WARM_UP:] * 1000, threads, batch)


def _timed(run: Any) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _summary(bundle: Bundle, milliseconds: NDArray[np.float64], threads: int, batch: int) -> dict[str, Any]:
    graph, teacher = np.median(milliseconds, axis=0)
    # The ratio within each round, which is robust against temporary load on the machine.
    ratios = milliseconds[:, 0] / milliseconds[:, 1]
    return {
        "product": bundle.manifest.product,
        "version": bundle.version,
        "method": bundle.manifest.method,
        "teachers": bundle.manifest.teachers,
        "input_wh": [bundle.manifest.input.width, bundle.manifest.input.height],
        "graph_ms": round(float(graph), 3),
        "teacher_ms": round(float(teacher), 3),
        "ratio_of_medians": round(float(graph / teacher), 3),
        "median_of_ratios": round(float(np.median(ratios)), 3),
        "ratio_quartiles": [round(float(q), 3) for q in np.quantile(ratios, [0.25, 0.75])],
        "graph_mb": round(len(bundle.read_model()) / 1e6, 2),
        "threads": threads,
        "batch": batch,
        "rounds": len(milliseconds),
        "onnxruntime": ort.__version__,
        "machine": platform.processor() or platform.machine(),
    }


def main(
    bundle: Annotated[Path, typer.Option(help="models/PRODUCT/VERSION, or models/PRODUCT for the newest bundle.")],
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 100,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the results to this JSON file.")] = None,
) -> None:
    """Compare the latency of a bundle's graph with that of its teacher alone."""
    torch.set_num_threads(threads)
    path = bundle if (bundle / MANIFEST).is_file() else newest_bundle(bundle)
    if path is None:
        raise typer.BadParameter(f"there is no bundle in {bundle}")
    figures = measure(Bundle.load(path), threads=threads, rounds=rounds, batch=batch)
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, str(value))
    console.print(table)
    if out is not None:
        out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
