"""The cells of a comparison: runs and their results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.config import FitConfig
from training.errors import InvalidOption
from training.files import write_text

RESULT = "result.json"


@dataclass(frozen=True)
class Cell:
    """One run of the comparison.

    Attributes:
        category: Name of the category's folder.
        config: Settings of the run, including method, teachers and seed.
        label: Name of the configuration, empty without one.
    """

    category: str
    config: FitConfig
    label: str = ""

    @property
    def column(self) -> str:
        """The name of the compared configuration: its label, else the method and its teachers."""
        return self.label or f"{self.config.method} · {'+'.join(self.config.teachers)}"

    @property
    def name(self) -> str:
        """The name of the cell's folder, unique in a comparison."""
        what = [self.label] if self.label else [self.config.method, *self.config.teachers]
        return "-".join([self.category, *what, f"seed{self.config.seed}"])

    def identity(self) -> dict[str, Any]:
        """Return what a stored result must have in common with this cell to be its result.

        Settings that only depend on the machine are excluded.
        """
        return {"category": self.category, **self.config.identity()}


@dataclass(frozen=True)
class Result:
    """The result of a cell.

    Attributes:
        figures: Figures by their names in `training.evaluate`, in 0..1.
        train_seconds: Wall time from images to calibrated graph, without the evaluation.
        cpu_seconds: Processor time of the same.
        parameters: Number of values in the graph's initializers.
        gmacs: Multiply-accumulate operations for one image, 10^9; half of PyTorch's count of floating-point operations.
        milliseconds: Median latency of the graph on ONNX Runtime's CPU provider, one image, two threads.
        bundle: Path of the bundle, relative to the comparison.
    """

    figures: dict[str, float]
    train_seconds: float
    cpu_seconds: float
    parameters: int
    gmacs: float
    milliseconds: float
    bundle: str


def finished(out: Path, cell: Cell) -> Result | None:
    """Return the stored result of a cell, None if it was not run with these settings."""
    try:
        stored = json.loads((out / cell.name / RESULT).read_text())
    except FileNotFoundError:
        return None
    return Result(**stored["result"]) if stored["identity"] == cell.identity() else None


def write_result(out: Path, cell: Cell, result: Result) -> None:
    """Store the result of a cell atomically; the cell is then finished."""
    stored = {"identity": cell.identity(), "result": asdict(result)}
    write_text(out / cell.name / RESULT, json.dumps(stored, indent=2) + "\n")


def make_cells(
    categories: Sequence[str],
    configs: Sequence[FitConfig] | Mapping[str, FitConfig],
    seeds: Sequence[int],
    rotating: Sequence[str] = (),
) -> list[Cell]:
    """Combine every category with every configuration and seed.

    The seed varies slowest, so that a table of all categories exists after the first seed.

    Args:
        categories: Names of the categories' folders.
        configs: Configurations, with or without names.
        seeds: Seeds of the runs.
        rotating: Categories with parts at any angle; they are trained with `augment="rotate"`.

    Raises:
        InvalidOption: A name in `rotating` is not among the categories.
    """
    for name in rotating:
        if name not in categories:
            raise InvalidOption("--rotate", repr(name), f"one of the categories {', '.join(categories)}")
    named = configs.items() if isinstance(configs, Mapping) else (("", config) for config in configs)
    chosen = list(named)
    return [
        Cell(category, replace(config, seed=seed, augment="rotate" if category in rotating else config.augment), label)
        for seed in seeds
        for label, config in chosen
        for category in categories
    ]
