"""Train and measure peers. `python -m benchmarks.peers` runs this module in the peers' environment."""

import io
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from benchmarks.peers.models import TRAIN, Images, PeerGraph
from benchmarks.peers.results import Result, network_path, settings_of
from service.bundle.golden import parity_difference
from service.bundle.manifest import InputGeometry
from service.inspection.preparation import prepare
from service.inspection.runtime.configure import configure
from service.inspection.runtime.session import SessionOptions, session_options
from training.dataset import TestImage, load_prepared, read_rgb, scan
from training.export import OPSET, TOLERANCE
from training.masks import read_mask
from training.metrics import PixelScores, auroc
from training.teachers import load_teacher

LATENCY_THREADS = 2
_ROUNDS, _WARM_UP = 30, 5

Timings = NDArray[np.float64]

console = Console()


class _NotExportable(Exception):
    """The network cannot be exported, or its graph computes different values."""


def measure(data: Path, category: str, peer: str, settings: Mapping[str, Any], out: Path) -> Result:
    """Train a peer on the training images of Plumbline's methods, and measure it on the test split.

    The parameters of the trained network are written to `network_path`.

    Args:
        data: Folder that contains folders in the MVTec layout.
        category: Name of one of these folders.
        peer: Key of `TRAIN`.
        settings: Settings as built by `benchmarks.peers.__main__`.
        out: Folder of the results.
    """
    size = settings["input_size"]
    geometry = InputGeometry(height=size, width=size)
    # The held-out images are not used: Plumbline's methods need them for the threshold, and a peer would, too.
    found = scan(data / category, seed=settings["seed"])
    images = load_prepared(found.train, geometry)
    torch.manual_seed(settings["seed"])
    started, started_cpu = time.perf_counter(), time.process_time()
    trained = TRAIN[peer](images, load_teacher(settings["teacher"]), settings)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    torch.save(trained.model.state_dict(), network_path(out, category, peer))
    graph = PeerGraph(trained.model.eval()).eval()
    figures = _figures(graph, found.test, geometry)
    milliseconds, latency = _latency(graph, images[:1])
    return Result(
        method=peer,
        category=category,
        **figures,
        train_seconds=round(seconds, 1),
        ms_per_image=round(milliseconds, 2),
        settings=settings_of(peer, settings),
        details={
            "trained_on": len(images),
            "train_cpu_seconds": round(cpu_seconds, 1),
            "threads": torch.get_num_threads(),
            **trained.details,
            **latency,
            "libraries": {name: version(name) for name in ("anomalib", "torch", "torchvision", "timm")},
        },
    )


def _figures(graph: nn.Module, tests: Sequence[TestImage], geometry: InputGeometry) -> dict[str, float]:
    scores, pixels = [], PixelScores()
    for test in tests:
        image = read_rgb(test.path)
        with torch.inference_mode():
            anomaly_map, score = graph(torch.from_numpy(prepare(image, geometry)[None]))
        scores.append(float(score[0]))
        if test.mask is not None or not test.defective:
            mask = read_mask(test.mask, (image.shape[1], image.shape[0]))
            pixels.add(anomaly_map[0].numpy(), mask)
    localised = pixels.figures()
    return {
        "image_auroc": auroc(np.array(scores), np.array([test.defective for test in tests])),
        "pixel_auroc": localised.auroc,
        "aupro": localised.aupro,
        "pixel_average_precision": localised.average_precision,
    }


def _latency(graph: nn.Module, image: Images) -> tuple[float, dict[str, Any]]:
    """Return the median latency for one image in milliseconds, and how it was measured.

    It is measured in ONNX Runtime if the exported graph computes the same values, otherwise in torch.
    """
    with torch.inference_mode():
        expected = graph(torch.from_numpy(image))
    runtime, why = "onnxruntime", ""
    try:
        model = _to_onnx(graph, image)
        options = session_options(SessionOptions(provider="cpu", threads=LATENCY_THREADS))
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        actual = session.run(None, {"image": image})
        difference = max(parity_difference(e.numpy(), a) for e, a in zip(expected, actual, strict=True))
        if not difference <= TOLERANCE:
            raise _NotExportable(f"the graph differs by {difference:.1e}")
        milliseconds = _timed(lambda: session.run(None, {"image": image}))
    except _NotExportable as error:
        runtime, why = "torch", str(error)
        milliseconds = _timed_in_torch(graph, image)
    median, processor = np.median(milliseconds, axis=0)
    details: dict[str, Any] = {
        "latency_runtime": runtime,
        "latency_threads": LATENCY_THREADS,
        # The value to compare if other processes use the machine.
        "ms_per_image_processor": round(float(processor), 2),
    }
    return float(median), {**details, **({"export_failed": why} if why else {})}


def _to_onnx(graph: nn.Module, image: Images) -> bytes:
    """Export the graph for batches of one image; PatchCore's search fixes the batch size at export."""
    try:
        with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                (torch.from_numpy(image),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["anomaly_map", "score"],
                external_data=False,
                verbose=False,
            )
        if program is None:  # only if a file was requested
            raise RuntimeError("the exporter returned nothing")
        return bytes(program.model_proto.SerializeToString())
    except Exception as error:  # the exporter passes on exceptions of any type
        raise _NotExportable(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}") from error


def _timed(run: Callable[[], object]) -> Timings:
    """Return wall-clock and processor time of every measured run, float64 `[runs, 2]`, in milliseconds."""
    seconds = []
    for _ in range(_WARM_UP + _ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    return 1000 * np.array(seconds[_WARM_UP:])


def _timed_in_torch(graph: nn.Module, image: Images) -> Timings:
    threads = torch.get_num_threads()
    torch.set_num_threads(LATENCY_THREADS)
    try:
        with torch.inference_mode():
            return _timed(lambda: graph(torch.from_numpy(image)))
    finally:
        torch.set_num_threads(threads)


def main(
    data: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option()],
    settings: Annotated[str, typer.Option(help="Settings as JSON.")],
    threads: Annotated[int, typer.Option(min=1)],
    pairs: Annotated[list[str], typer.Argument(help="PEER:CATEGORY.")],
) -> None:
    """Measure pairs of peer and category, and write one result file for each."""
    configure()
    torch.set_num_threads(threads)
    for pair in pairs:
        peer, _, category = pair.partition(":")
        result = measure(data, category, peer, json.loads(settings), out)
        result.write(out)
        console.print(
            f"{peer} {category}: image AUROC {100 * result.image_auroc:.2f}, AUPRO {100 * result.aupro:.2f}, "
            f"{result.train_seconds:.0f} s, {result.ms_per_image:.1f} ms"
        )


if __name__ == "__main__":
    typer.run(main)
