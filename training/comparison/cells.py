"""The cells of a comparison: what is run, and what it gave."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.config import FitConfig
from training.errors import InvalidOption

RESULT = "result.json"


@dataclass(frozen=True)
class Cell:
    """One run of the comparison.

    Attributes:
        category: Name of the data set's folder.
        config: Settings of the run, method, teachers and seed among them.
        label: What the configuration is called, if it has a name of its own.
    """

    category: str
    config: FitConfig
    label: str = ""

    @property
    def column(self) -> str:
        """What is compared: the configuration's name, else the method and its teachers."""
        return self.label or f"{self.config.method} · {'+'.join(self.config.teachers)}"

    @property
    def name(self) -> str:
        what = [self.label] if self.label else [self.config.method, *self.config.teachers]
        return "-".join([self.category, *what, f"seed{self.config.seed}"])

    def identity(self) -> dict[str, Any]:
        """What must be equal for a finished cell to count as this one."""
        settings = self.config.as_json()
        del settings["checkpoint_seconds"], settings["threads"]
        return json.loads(json.dumps({"category": self.category, **settings}))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Result:
    """What a cell gave.

    Attributes:
        figures: As `training.evaluate` names them, in 0..1.
        train_seconds: Wall time from images to bundle, without the evaluation.
        cpu_seconds: Processor time of the same.
        parameters: Numbers in the graph.
        gmacs: Multiplications for one image, 10^9; half of torch's count of floating-point operations.
        milliseconds: Median of the graph on ONNX Runtime's CPU provider, one image, two threads.
        bundle: Where the bundle lies, relative to the comparison.
    """

    figures: dict[str, float]
    train_seconds: float
    cpu_seconds: float
    parameters: int
    gmacs: float
    milliseconds: float
    bundle: str


def finished(out: Path, cell: Cell) -> Result | None:
    """The result of a cell that was run with the very same settings."""
    try:
        stored = json.loads((out / cell.name / RESULT).read_text())
    except FileNotFoundError:
        return None
    return Result(**stored["result"]) if stored["identity"] == cell.identity() else None


def write_result(out: Path, cell: Cell, result: Result) -> None:
    """Marks a cell as finished, whole or not at all."""
    scratch = out / cell.name / f"{RESULT}.tmp"
    scratch.write_text(json.dumps({"identity": cell.identity(), "result": asdict(result)}, indent=2) + "\n")
    scratch.replace(out / cell.name / RESULT)


def make_cells(
    categories: Sequence[str],
    configs: Sequence[FitConfig] | Mapping[str, FitConfig],
    seeds: Sequence[int],
    rotating: Sequence[str] = (),
) -> list[Cell]:
    """Every category with every configuration and seed, seed by seed so that a first table is complete early.

    Args:
        categories: Names of folders.
        configs: One for each method and choice of teachers, or by names of their own.
        seeds: Of the runs.
        rotating: Categories whose parts lie at any angle.

    Raises:
        InvalidOption: `rotating` names something that is not compared.
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
