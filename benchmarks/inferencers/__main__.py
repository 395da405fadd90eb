"""Measure Plumbline, anomalib's inferencers and Roboflow's `inference` from encoded bytes to a verdict and a map.

    python -m benchmarks.inferencers --data ROOT --categories screw transistor --out DIR --peers DIR
        --models 'runs/compare/{category}-nnet-efficientnet_lite2-seed0/models' [--roboflow-python ENV/bin/python]

anomalib's PatchCore is one that `benchmarks.peers` has trained on the images of Plumbline's bundle. Each inferencer
runs in a process of its own with all cores. `--part accuracy` inspects the files of the test split, `--part timing`
JPEG images of 1024 x 1024 pixels made from four of them, in turn, so that other load on the machine affects all
equally, and then counts images per second of each alone. An inferencer whose package or model is missing is left out,
and the reason is printed. Every category has a file in DIR; the table of all is written to `inferencers.md`.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from enum import StrEnum
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.console import Console

from benchmarks.inferencers.contestant import Contestant
from benchmarks.inferencers.contestants import NAMES, ROBOFLOW, Missing, Setup, started
from benchmarks.inferencers.table import Results, markdown, read_results, write_results
from benchmarks.marked_section import write_section
from benchmarks.peers.environment import ROOT
from service.inspection.runtime.threads import cpu_quota
from training.cli.main import spread_lists
from training.dataset import TestImage, read_rgb, scan_test
from training.metrics import auroc

_SIDE = 1024
_TIMED_IMAGES = 4  # half of them good
_WARM_UP = 3  # rounds
_PAUSE_S = 0.05  # between two inferencers: threads of the last one may still spin

console = Console()


class Part(StrEnum):
    """A part of the measurement."""

    ACCURACY = "accuracy"
    TIMING = "timing"


def write_jpegs(images: list[TestImage], folder: Path) -> list[Path]:
    """Write JPEG images of 1024 x 1024 pixels made from test images, half of them good.

    Args:
        images: The test split.
        folder: Existing folder.
    """
    half = _TIMED_IMAGES // 2
    chosen = [image for image in images if not image.defective][:half]
    chosen += [image for image in images if image.defective][:half]
    paths = []
    for number, image in enumerate(chosen):
        pixels = cv2.resize(read_rgb(image.path), (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
        path = folder / f"{number}.jpg"
        path.write_bytes(cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
        paths.append(path)
    return paths


def measure_accuracy(contestant: Contestant, images: list[TestImage]) -> dict[str, float | int]:
    """Inspect every test image; return the image AUROC and the wrong verdicts."""
    contestant.wait_ready()
    replies = [contestant.inspect(image.path) for image in images]
    defective = np.array([image.defective for image in images])
    failed = np.array([reply["defective"] for reply in replies])
    return {
        "image_auroc": auroc(np.array([reply["score"] for reply in replies]), defective),
        "good": int((~defective).sum()),
        "good_failed": int((failed & ~defective).sum()),
        "defective": int(defective.sum()),
        "defective_not_failed": int((~failed & defective).sum()),
    }


def measure_time(contestants: list[Contestant], files: list[Path], rounds: int, for_s: float) -> Results:
    """Time the inferencers in turn, then count the images per second of each alone."""
    for contestant in contestants:
        contestant.wait_ready()
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    maps = {}
    for turn, file in enumerate(islice(cycle(files), _WARM_UP + rounds)):
        for contestant in contestants:
            time.sleep(_PAUSE_S)
            reply = contestant.inspect(file)
            maps[contestant.name] = reply["map_hw"]
            if turn >= _WARM_UP:
                seconds[contestant.name].append(reply["seconds"])
    results: Results = {}
    for contestant in contestants:
        values = 1000 * np.array(seconds[contestant.name])
        rates = {str(count): round(contestant.rate(files[0], count, for_s), 2) for count in contestant.callers}
        results[contestant.name] = {
            "median_ms": round(float(np.median(values)), 2),
            "p95_ms": round(float(np.quantile(values, 0.95)), 2),
            "rounds": rounds,
            "map_hw": maps[contestant.name],
            "images_per_second": rates,
        }
    return results


def main(
    data: Annotated[Path, typer.Option(help="Folder that contains folders in the MVTec layout.")],
    categories: Annotated[list[str], typer.Option(help="Names of one or more of these folders.")],
    models: Annotated[str, typer.Option(help="Plumbline's model repository, with {category} for the category.")],
    peers: Annotated[Path, typer.Option(help="Folder of benchmarks.peers with a PatchCore of each category.")],
    out: Annotated[Path, typer.Option(help="Folder for the results and the exported files.")],
    part: Annotated[list[Part] | None, typer.Option(help="Measure only this part; can be repeated.")] = None,
    inferencer: Annotated[list[str] | None, typer.Option(help="Measure only this one; can be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=4, help="Timed images per inferencer.")] = 40,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of each count of images per second.")] = 10,
    environment: Annotated[Path, typer.Option(help="Environment for anomalib; created if missing.")] = (
        ROOT / "runs" / "peers-environment"
    ),
    roboflow_python: Annotated[Path | None, typer.Option(help="Interpreter with the package inference-cpu.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the table to docs/benchmarks.md.")] = False,
) -> None:
    """Measure the inferencers and write the table."""
    names = inferencer or list(NAMES)
    if unknown := set(names) - set(NAMES):
        raise typer.BadParameter(
            f"{', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}", param_hint="--inferencer"
        )
    out.mkdir(parents=True, exist_ok=True)
    setup = Setup(
        data=data.absolute(),
        models=models,
        peers=peers.absolute(),
        exported=out.absolute() / "exported",
        environment=environment.absolute(),
        roboflow=roboflow_python and roboflow_python.absolute(),
        threads=cpu_quota(),
    )
    parts = part or list(Part)
    for category in categories:
        images = scan_test(data / category)
        if Part.ACCURACY in parts:
            for name in names:
                # Its scores mean nothing, see `benchmarks.inferencers.roboflow_side`.
                if name == ROBOFLOW:
                    continue
                try:
                    with started(setup, name, category) as contestant:
                        write_results(out, category, {name: measure_accuracy(contestant, images)})
                except Missing as reason:
                    console.print(f"{name} is left out: {reason}", markup=False, highlight=False)
        if Part.TIMING in parts:
            with ExitStack() as running:
                files = write_jpegs(images, Path(running.enter_context(tempfile.TemporaryDirectory())))
                contestants = []
                for name in names:
                    try:
                        contestants.append(running.enter_context(started(setup, name, category)))
                    except Missing as reason:
                        console.print(f"{name} is left out: {reason}", markup=False, highlight=False)
                write_results(out, category, measure_time(contestants, files, rounds, seconds))
    text = markdown({category: read_results(out, category) for category in categories}, NAMES)
    (out / "inferencers.md").write_text(text)
    console.print(text, markup=False)
    if write:
        write_section("inferencers", text)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(args=spread_lists(sys.argv[1:]))
