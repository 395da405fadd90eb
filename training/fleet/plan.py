"""The jobs of a fleet: every line of the list, checked before any training starts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.errors import PlumblineError
from service.inspection.capture_groups import GroupChoice
from training.config import FitConfig
from training.config_file import read_settings
from training.errors import InvalidProductList
from training.fit import untrained
from training.fleet.job import Job
from training.fleet.product_list import ListedProduct, Problem, read_list
from training.methods import fit_config
from training.pipeline import Request


@dataclass(frozen=True)
class FleetOptions:
    """What holds for every product of a fleet.

    Attributes:
        out: Folder of the results, checkpoints and reports, with one folder per product.
        models: The model repository.
        threads: CPU threads of each training.
        common: Settings of every training, by the names of `fit_config`, for example the seed and the device.
        settings: Settings of products without a file of their own; None stands for "not chosen".
        quick: Make a first bundle within minutes of products without a file.
        held_out_fraction: As in `training.pipeline.Request`.
        groups: As in `Request`.
        allow_weak: As in `Request`.
        evaluate: Measure the bundles of products that have a test split.
    """

    out: Path
    models: Path
    threads: int
    common: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False
    held_out_fraction: float = 0.2
    groups: GroupChoice = "auto"
    allow_weak: bool = False
    evaluate: bool = True


def plan_jobs(path: Path, options: FleetOptions) -> list[Job]:
    """Read the list and return the jobs of its products.

    Args:
        path: The list, see `training.fleet.product_list`.
        options: What holds for every product.

    Raises:
        InvalidProductList: The list cannot be read, or lines of it are invalid; every one of them is named.
        PlumblineError: The settings of the command are invalid.
    """
    listed, problems = read_list(path)
    configs: dict[Path | None, FitConfig] = {}
    tried: list[FitConfig] = []
    for settings in dict.fromkeys(product.settings for product in listed):
        try:
            config = configs[settings] = _config(settings, options)
            if config not in tried:
                untrained(config)  # wrong options and missing weights are reported now, not hours later
                tried.append(config)
        except PlumblineError as error:
            if settings is None:
                raise
            lines = [product.line for product in listed if product.settings == settings]
            problems += [Problem(line, error.detail.rstrip(".")) for line in lines]
    if problems:
        raise InvalidProductList(path, list(_sentences(problems)))
    started = time.time()
    return [_job(product, configs[product.settings], options, started) for product in listed]


def _config(settings: Path | None, options: FleetOptions) -> FitConfig:
    common = {**options.common, "threads": options.threads}
    if settings is not None:
        return read_settings(settings, **common)
    return fit_config(quick=options.quick, **{**options.settings, **common})


def _sentences(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield the problems in the order of the lines."""
    for problem in sorted(problems, key=lambda problem: problem.line):
        yield f"line {problem.line}: {problem.reason}"


def _job(product: ListedProduct, config: FitConfig, options: FleetOptions, started: float) -> Job:
    folder = (options.out / product.product).absolute()  # a process of another machine has another working directory
    request = Request(
        data=product.data.absolute(),
        product=product.product,
        models=options.models.absolute(),
        run_dir=folder / "run",
        config=config,
        held_out_fraction=options.held_out_fraction,
        groups=options.groups,
        allow_weak=options.allow_weak,
        evaluate=options.evaluate,
    )
    return Job(request, folder, started)
