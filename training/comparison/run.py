"""Comparison of methods: every configuration on every category with every seed, in one table.

Each cell of the comparison is a run of `training.pipeline.train`, from images to an evaluated bundle, with the weights
of the last step, in a folder of its own. A finished cell is not run again, an interrupted one continues from its
checkpoint, and several processes on the same folder share the work. The tables hold finished cells only.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch.utils.flop_counter import FlopCounterMode

from service.bundle.bundle import Bundle
from service.bundle.manifest import PRODUCT_NAME
from service.inspection.heatmap import encode
from service.inspection.inspector import Inspector
from service.inspection.runtime.session import GraphSession, SessionOptions
from service.recipes.recipe import Recipe
from training.claims import claimed
from training.comparison.cells import Cell, Result, finished, write_result
from training.comparison.tables import OVERLAY_FACTS, OVERLAYS, write_tables
from training.config import FitConfig
from training.dataset import TestImage, scan_test
from training.errors import InvalidOption, NoImagesFound
from training.fit import Progress
from training.methods import build_method
from training.pipeline import Reporter, Request, inspector_options, train
from training.report.origin import gather_origin
from training.report.overlays import draw_overlay
from training.report.page import write_report
from training.teachers import random_teacher

TIMED_RUNS = 40
TIMED_THREADS = 2


def categories_in(root: Path, chosen: Sequence[str] = ()) -> list[str]:
    """List the categories of a data root: the chosen folders, by default all folders with a test split.

    Raises:
        NoImagesFound: There is none.
        InvalidOption: A chosen folder has no test split, or its name is not valid as a product name.
    """
    found = sorted(path.name for path in root.iterdir() if (path / "test").is_dir()) if root.is_dir() else []
    for name in chosen:
        if name not in found:
            raise InvalidOption(
                "A category", repr(name), f"a folder of {root} with train/good and test, one of {found}"
            )
    names = list(chosen) or found
    if not names:
        raise NoImagesFound(root, "folders with train/good and test", "check --data")
    for name in names:
        if not PRODUCT_NAME.fullmatch(name):
            raise InvalidOption(
                "A category", repr(name), "1 to 64 of a-z, 0-9, - and _ (it is used as the product name)"
            )
    return names


def compare(
    data: Path,
    cells: Sequence[Cell],
    out: Path,
    reporter: Callable[[Cell], Reporter],
    should_stop: Callable[[Progress], bool] = lambda _: False,
) -> dict[str, Result]:
    """Run the cells that are not finished, and write the tables after each.

    Args:
        data: The folder of the categories.
        cells: The cells of the comparison.
        out: Folder of the results, the bundles and `comparison.md`, `.json` and `.html`.
        reporter: Returns the progress display of a cell.
        should_stop: See `training.pipeline.train`.

    Returns:
        The results by the names of the cells.

    Raises:
        PlumblineError: A cell failed. The results of finished cells are kept.
        KeyboardInterrupt: `should_stop` returned True. A later call continues there.
    """
    out.mkdir(parents=True, exist_ok=True)
    for waiting in (False, True):  # first the cells that no other process runs, then wait for the other processes
        for cell in cells:
            with claimed(out / f"{cell.name}.lock", wait=waiting) as ours:
                if ours and finished(out, cell) is None:
                    _run(data, cell, out, reporter(cell), should_stop)
                    write_tables(out, cells)
    write_tables(out, cells)
    return {cell.name: result for cell in cells if (result := finished(out, cell)) is not None}


def _run(data: Path, cell: Cell, out: Path, reporter: Reporter, should_stop: Callable[[Progress], bool]) -> None:
    folder = out / cell.name
    run_dir, source = folder / "run", data / cell.category
    request = Request(
        data=source,
        product=cell.category,
        models=folder / "models",
        run_dir=run_dir,
        config=cell.config,
        resume=_same_run(run_dir, cell),
        evaluate=True,
        allow_weak=True,  # a comparison shows weak methods as well
    )
    trained = train(request, reporter, should_stop)
    evaluation = trained.require_evaluation()
    inspector = Inspector.load(trained.bundle.path, inspector_options(cell.config.threads))
    try:
        write_report(evaluation, inspector, folder / "report.html", gather_origin(trained.bundle, run_dir))
        _draw_overlays(inspector, scan_test(source), folder)
    finally:
        inspector.close()
    result = Result(
        figures=evaluation.figures,
        train_seconds=round(trained.seconds, 1),
        cpu_seconds=round(trained.cpu_seconds, 1),
        parameters=_parameters(trained.bundle),
        gmacs=round(_macs(cell.config) / 1e9, 3),
        milliseconds=round(_milliseconds(trained.bundle), 2),
        bundle=trained.bundle.path.relative_to(out).as_posix(),
    )
    write_result(out, cell, result)
    shutil.rmtree(run_dir, ignore_errors=True)  # the checkpoint is no longer needed


def _same_run(run_dir: Path, cell: Cell) -> bool:
    """Return whether the folder holds this cell's checkpoint; if not, empty it and store the cell's identity in it."""
    note = run_dir / "cell.json"
    same = note.is_file() and json.loads(note.read_text()) == cell.identity()
    if not same:
        shutil.rmtree(run_dir, ignore_errors=True)
        run_dir.mkdir(parents=True)
        note.write_text(json.dumps(cell.identity()))
    return same


def _draw_overlays(inspector: Inspector, images: Sequence[TestImage], folder: Path) -> None:
    """Write the first image of up to `OVERLAYS` kinds of defects and its overlay, the same images for every method.

    File names, kinds and decisions are written to `OVERLAY_FACTS`.
    """
    criteria = Recipe.default(inspector.card.scores).criteria
    first = {image.defect: image for image in reversed(images) if image.defective}
    facts = []
    for number, (defect, image) in enumerate(sorted(first.items())[:OVERLAYS]):
        rgb, overlay, inspection = draw_overlay(inspector, image.path, image.mask, criteria)
        for name, shown in (("original", rgb), ("overlay", overlay)):
            (folder / f"{name}{number}.jpg").write_bytes(encode(shown, "image/jpeg", quality=85))
        facts.append(
            {
                "file": f"{defect}/{image.path.name}",
                "decision": str(inspection.decision),
                "score": inspection.score,
                "fail_threshold": criteria.thresholds.fail,
            }
        )
    (folder / OVERLAY_FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def _parameters(bundle: Bundle) -> int:
    graph = onnx.load_model_from_string(bundle.read_model()).graph
    return int(sum(np.prod(tensor.dims) for tensor in graph.initializer))


def _macs(config: FitConfig) -> float:
    """Count the multiply-accumulate operations for one image, with random weights."""
    method = build_method(config, [random_teacher(name) for name in config.teachers]).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        method(torch.zeros((1, config.input_size, config.input_size, 3), dtype=torch.uint8))
    return counter.get_total_flops() / 2


def _milliseconds(bundle: Bundle) -> float:
    geometry = bundle.manifest.input
    session = GraphSession(bundle.read_model(), SessionOptions(provider="cpu", threads=TIMED_THREADS))
    image = np.random.default_rng(0).integers(0, 256, (1, geometry.height, geometry.width, 3), dtype=np.uint8)
    times = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        session.run(image)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))
