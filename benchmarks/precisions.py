"""Measure what int8 costs in accuracy: both precisions of every bundle on its test images, in one table.

    plumbline-train compare --data DIR --methods nnet --seeds 0 --out runs/compare
    python -m benchmarks.precisions --data DIR --models runs/compare --out runs/precisions

Looks for fp32 bundles in all sub-folders of `--models`, converts each to int8 with the images of its category in
`--data`, and evaluates both. A bundle that `plumbline-train export` would refuse is measured and marked. The graphs run
in alternation on one thread; the medians are reported. Writes `precisions.md` and `precisions.json`; a second start
measures only bundles that are new.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.measured_bundles import BundleRow, StoredRows, fp32_bundles, identity, table_head
from service.bundle.bundle import Bundle
from service.inspection.runtime.configure import configure
from service.inspection.runtime.session import GraphSession, SessionOptions
from training.certification import TestSplit
from training.cli.progress import ProgressBars
from training.conversion import Request, convert
from training.dataset import scan_test
from training.files import write_text
from training.pipeline import Reporter, inspector_options

FIGURES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
TIMED_RUNS = 30
_WARM_UP = 3


@dataclass(frozen=True)
class Row(BundleRow):
    """Both precisions of one bundle.

    Attributes:
        fp32: Figures of the fp32 bundle, in 0..1.
        int8: Figures of the int8 bundle.
        milliseconds: Median time of the fp32 and of the int8 graph for one image on one thread.
        refused: Why `plumbline-train export` would refuse the int8 bundle; empty if it would not.
    """

    fp32: Mapping[str, float]
    int8: Mapping[str, float]
    milliseconds: tuple[float, float]
    refused: Sequence[str]


def measure(bundle: Bundle, data: Path, models: Path, threads: int, reporter: Reporter) -> Row:
    """Convert a bundle to int8 and measure both.

    Args:
        bundle: The fp32 bundle.
        data: The folder of its category.
        models: Model repository of the int8 bundle.
        threads: CPU threads of the evaluation.
        reporter: Shows the progress.
    """
    request = Request(bundle, data, models, test=TestSplit(data, scan_test(data)), allow_weak=True)
    converted = convert(request, inspector_options(threads, "cpu"), reporter)
    assert converted.evaluations is not None  # a test split was given
    before, after = (
        {name: evaluation.figures[name] for name in FIGURES if name in evaluation.figures}
        for evaluation in converted.evaluations
    )
    known = len(bundle.manifest.training.weak)
    return Row(
        **identity(bundle),
        fp32=before,
        int8=after,
        milliseconds=graph_times(bundle, converted.bundle),
        refused=converted.bundle.manifest.training.weak[known:],
    )


def graph_times(first: Bundle, second: Bundle) -> tuple[float, float]:
    """Return the median time of two graphs for one image on one thread, in milliseconds, run in alternation."""
    sessions = [GraphSession(bundle.read_model(), SessionOptions("cpu", threads=1)) for bundle in (first, second)]
    image = first.golden[0].image[None]
    seconds = np.empty((_WARM_UP + TIMED_RUNS, 2))
    for row in seconds:
        for index, session in enumerate(sessions):
            started = time.perf_counter()
            session.run(image)
            row[index] = time.perf_counter() - started
    fp32, int8 = 1000 * np.median(seconds[_WARM_UP:], axis=0)
    return float(fp32), float(int8)


def markdown(rows: Sequence[Row]) -> str:
    """Format the rows as a table, with a mean of the categories for every method."""
    head = ["method", "category", "seeds"]
    head += [f"{label} % {precision}" for label in FIGURES.values() for precision in ("fp32", "int8")]
    head += ["ms fp32", "ms int8", "refused"]
    lines = table_head(head)
    by_method: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_method[row.method][row.category].append(row)
    for method, categories in sorted(by_method.items()):
        for category, of_category in sorted(categories.items()):
            lines.append(_line(method, category, [of_category]))
        lines.append(_line(method, "**mean**", list(categories.values())))
    return "\n".join(lines) + "\n"


def _line(method: str, category: str, groups: Sequence[Sequence[Row]]) -> str:
    """Return a line with the means over the groups of the means over their rows."""

    def mean(values: Sequence[Sequence[float]]) -> float:
        return float(np.mean([np.mean(group) for group in values]))

    flat = [row for group in groups for row in group]
    figures = [
        f"{100 * mean([[getattr(row, precision).get(name, np.nan) for row in group] for group in groups]):.2f}"
        for name in FIGURES
        for precision in ("fp32", "int8")
    ]
    times = [f"{mean([[row.milliseconds[index] for row in group] for group in groups]):.1f}" for index in (0, 1)]
    refused = sum(bool(row.refused) for row in flat)
    cells = [method, category, str(max(map(len, groups))), *figures, *times, f"{refused} of {len(flat)}"]
    return f"| {' | '.join(cells)} |"


def main(
    data: Annotated[Path, typer.Option(help="Folder of MVTec-layout folders, one per category.")],
    models: Annotated[Path, typer.Option(help="Folder with fp32 bundles, for example of a comparison.")],
    out: Annotated[Path, typer.Option(help="Folder of the int8 bundles and the tables.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the evaluation.")] = 1,
) -> None:
    """Write the table of fp32 and int8 figures."""
    configure()
    out.mkdir(parents=True, exist_ok=True)
    stored = StoredRows(out / "precisions.json", Row)
    with ProgressBars() as bars:
        for bundle in fp32_bundles(models):
            folder = data / bundle.manifest.product
            if bundle.digest in stored.rows or not (folder / "test").is_dir():
                continue
            bars.titled(f"{bundle.manifest.product} {bundle.version}")
            stored.add(bundle, measure(bundle, folder, out / "models", threads, bars))
            write_text(out / "precisions.md", markdown(list(stored.rows.values())))
    typer.echo(markdown(list(stored.rows.values())))


if __name__ == "__main__":
    typer.run(main)
