"""The tables of a comparison: mean and standard deviation over the seeds, as Markdown, JSON and HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.comparison.cells import Cell, Result, finished
from training.html_pages import template_environment

OVERLAYS = 3  # kinds of defects with an overlay, per category
OVERLAY_FACTS = "overlays.json"  # file name, decision and score of each overlay

FIGURES: Mapping[str, str] = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "pixel_average_precision": "pixel AP",
}


@dataclass(frozen=True)
class Summary:
    """The runs of a configuration on one category, or their means over all categories.

    Attributes:
        seeds: Number of finished runs.
        mean: Mean by figure, percent.
        spread: Sample standard deviation over the seeds by figure, percentage points; 0 for a single seed.
        seconds: Mean wall time of a training, seconds.
        cost: Parameters, 10^9 multiply-accumulate operations and milliseconds per image of the graph.
    """

    seeds: int
    mean: dict[str, float]
    spread: dict[str, float]
    seconds: float
    cost: tuple[int, float, float]


def summarise(cells: Sequence[Cell], results: Mapping[str, Result]) -> dict[str, dict[str, Summary]]:
    """Summarise the results by configuration and category.

    The row "mean" holds the means over the categories, for the seeds that are finished in every category.
    """
    table: dict[str, dict[str, Summary]] = {}
    for column in dict.fromkeys(cell.column for cell in cells):
        runs: dict[str, dict[int, Result]] = {}
        for cell in cells:
            if cell.column == column and cell.name in results:
                runs.setdefault(cell.category, {})[cell.config.seed] = results[cell.name]
        wanted = {cell.category for cell in cells if cell.column == column}
        rows = {category: _summary([[run] for run in by_seed.values()]) for category, by_seed in runs.items()}
        complete = set.intersection(*(set(by_seed) for by_seed in runs.values())) if runs.keys() == wanted else set()
        if complete:
            rows["mean"] = _summary([[by_seed[seed] for by_seed in runs.values()] for seed in sorted(complete)])
        table[column] = rows
    return table


def _summary(by_seed: Sequence[Sequence[Result]]) -> Summary:
    def of(figure: str) -> list[float]:
        return [100 * float(np.mean([run.figures.get(figure, np.nan) for run in runs])) for runs in by_seed]

    flat = [run for runs in by_seed for run in runs]
    return Summary(
        seeds=len(by_seed),
        mean={figure: float(np.mean(of(figure))) for figure in FIGURES},
        spread={figure: float(np.std(of(figure), ddof=1)) if len(by_seed) > 1 else 0.0 for figure in FIGURES},
        seconds=float(np.mean([run.train_seconds for run in flat])),
        cost=(flat[0].parameters, flat[0].gmacs, float(np.median([run.milliseconds for run in flat]))),
    )


def markdown(table: Mapping[str, Mapping[str, Summary]]) -> str:
    """Format the table as Markdown, one row per configuration and category."""
    head = ["method", "category", "seeds", *(f"{label} %" for label in FIGURES.values())]
    head += ["training s", "10⁶ parameters", "10⁹ MAC", "ms per image"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for column, rows in table.items():
        for category, row in rows.items():
            figures = [
                f"{row.mean[key]:.2f}" + (f" ± {row.spread[key]:.2f}" if row.seeds > 1 else "") for key in FIGURES
            ]
            parameters, gmacs, milliseconds = row.cost
            cost = [f"{row.seconds:.0f}", f"{parameters / 1e6:.2f}", f"{gmacs:.2f}", f"{milliseconds:.1f}"]
            name = f"**{category}**" if category == "mean" else category
            lines.append(f"| {' | '.join([column, name, str(row.seeds), *figures, *cost])} |")
    return "\n".join(lines) + "\n"


def write_tables(out: Path, cells: Sequence[Cell]) -> None:
    """Write `comparison.md`, `comparison.json` and `comparison.html` of the finished cells."""
    results = {cell.name: result for cell in cells if (result := finished(out, cell)) is not None}
    table = summarise(cells, results)
    as_json = {
        "runs": {
            cell.name: {"settings": cell.identity(), **asdict(results[cell.name])}
            for cell in cells
            if cell.name in results
        },
        "table": {column: {category: asdict(row) for category, row in rows.items()} for column, rows in table.items()},
    }
    shown = [
        (category, [cell for cell in cells if cell.category == category and cell.name in results])
        for category in dict.fromkeys(cell.category for cell in cells)
    ]
    page = (
        template_environment()
        .get_template("comparison.html.j2")
        .render(
            table=table,
            figures=FIGURES,
            shown=[(category, _first_seeds(of_category)) for category, of_category in shown if of_category],
            overlays=lambda cell: _overlays(out / cell.name),
        )
    )
    for name, text in (
        ("comparison.md", markdown(table)),
        ("comparison.json", json.dumps(as_json, indent=2) + "\n"),
        ("comparison.html", page),
    ):
        scratch = out / f".{name}.tmp"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(out / name)


def _overlays(folder: Path) -> list[dict[str, Any]]:
    """Return the facts about the overlays of a cell; empty if it was run before they were written."""
    try:
        facts: list[dict[str, Any]] = json.loads((folder / OVERLAY_FACTS).read_text())
    except FileNotFoundError:
        return []
    return facts


def _first_seeds(cells: Sequence[Cell]) -> list[Cell]:
    """Return the first cell of every configuration: the images of further seeds are similar."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.column, cell)
    return list(first.values())
