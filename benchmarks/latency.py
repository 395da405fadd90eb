"""Measure the overhead of the service over decoding and inference, for one camera.

    python -m benchmarks.latency --models models --product washer
    python -m benchmarks.latency --product washer --scaled --width 4096 --height 3000 --noise 2 --limit-ms 45

Starts a service process and posts the same JPEG, a golden sample of the bundle, repeatedly over one connection.
Between the requests, it decodes the image as the bundle states and runs the same graph in ONNX Runtime alone, so that
other load on the machine affects both equally. `--scaled` serves a copy of the bundle with scaled decoding of JPEG
images. With `--scaled` or another size than 1024 x 1024, the copy states the size of the image as that of its good
images; the quality check would reject it otherwise. Prints JSON; exits with code 1 if the ratio of the medians exceeds
`--limit`, or the median latency over HTTP exceeds `--limit-ms`. With `--limit-ms`, the ratio has no limit unless it is
given.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime as ort
import typer

from benchmarks.derived_bundle import with_input
from benchmarks.load import good_jpeg, require_judged
from service.bundle.bundle import Bundle, bundle_folders
from service.inspection import preparation
from service.inspection.decoded_image import decode_for
from service.inspection.decoding.decoder import ImageLimits, read_header
from service.inspection.runtime.configure import configure
from service.inspection.runtime.threads import cpu_quota
from tests.serving import service_process


def bare_session(model: bytes, threads: int) -> ort.InferenceSession:
    """Return an ONNX Runtime session without the service."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # As in the service: threads that spin between runs would slow down what is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")],
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    image: Annotated[Path | None, typer.Option(help="JPEG to post; a golden sample of the bundle by default.")] = None,
    width: Annotated[int, typer.Option(min=32, help="Width of the golden sample, pixels.")] = 1024,
    height: Annotated[int, typer.Option(min=32, help="Height of the golden sample, pixels.")] = 1024,
    scaled: Annotated[bool, typer.Option("--scaled", help="Serve a copy of the bundle with scaled decoding.")] = False,
    noise: Annotated[float, typer.Option(min=0, help="Noise of the golden sample's pixels, gray levels.")] = 0,
    rounds: Annotated[int, typer.Option(min=10, help="Number of measured requests.")] = 200,
    limit: Annotated[float | None, typer.Option(help="Largest accepted ratio; 1.2 without --limit-ms.")] = None,
    limit_ms: Annotated[float | None, typer.Option(help="Largest accepted latency over HTTP, milliseconds.")] = None,
) -> None:
    """Compare the median latency over HTTP with that of decoding plus running the graph."""
    configure()
    limit = 1.2 if limit is None and limit_ms is None else limit
    data = image.read_bytes() if image else good_jpeg(models, product, (width, height), noise)
    bundle = Bundle.load(bundle_folders((models / product).absolute())[0])
    limits, header = ImageLimits(), read_header(data)
    path = f"/v1/products/{product}/inspections"
    times: dict[str, list[float]] = {"decode": [], "run": [], "bare": [], "http": []}
    stages: dict[str, list[float]] = {}
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        if scaled or (image is None and (width, height) != (1024, 1024)):
            models = folder / "models"
            jpeg = "scaled" if scaled else bundle.manifest.input.jpeg
            bundle = with_input(bundle, models, sent_wh=(header.width, header.height), jpeg=jpeg)
        geometry = bundle.manifest.input
        session = bare_session(bundle.read_model(), cpu_quota())
        service = running.enter_context(service_process(models.absolute(), folder / "data", {"provider": "cpu"}))
        service.wait_until(200)
        require_judged(service, product, data)
        # The standard library's client has the least overhead of its own.
        with closing(http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=60)) as client:
            for turn in range(rounds + 10):
                started = time.perf_counter()
                decoded_image = decode_for(data, limits, geometry)
                decoded = time.perf_counter()
                # Resizing is part of the service's overhead, so it is not measured here.
                prepared = preparation.prepare(decoded_image.rgb, geometry)[None]
                before = time.perf_counter()
                session.run(None, {"image": prepared})
                after = time.perf_counter()
                client.request("POST", path, data, {"content-type": "image/jpeg"})
                response = client.getresponse()
                body = response.read()
                finished = time.perf_counter()
                if response.status != 201:
                    raise RuntimeError(f"{response.status}: {body.decode()}")
                if turn < 10:
                    continue  # warm-up
                times["decode"].append(decoded - started)
                times["run"].append(after - before)
                times["bare"].append(decoded - started + after - before)
                times["http"].append(finished - after)
                for stage, milliseconds in json.loads(body)["timings_ms"].items():
                    stages.setdefault(stage, []).append(milliseconds)
    medians = {name: round(1000 * statistics.median(values), 3) for name, values in times.items()}
    ratio = medians["http"] / medians["bare"]
    report = {
        "product": product,
        "bundle": bundle.version,
        "image_bytes": len(data),
        "image_wh": [header.width, header.height],
        "jpeg": geometry.jpeg,
        "rounds": rounds,
        "threads": cpu_quota(),
        "median_ms": medians,
        # The latency without competing load, for comparisons on a machine that is not idle.
        "p10_ms": {name: round(1000 * float(np.quantile(values, 0.1)), 3) for name, values in times.items()},
        "p95_ms": {name: round(1000 * float(np.quantile(values, 0.95)), 3) for name, values in times.items()},
        "service_stage_median_ms": {name: statistics.median(values) for name, values in stages.items()},
        "ratio": round(ratio, 3),
        "limit": limit,
        "limit_ms": limit_ms,
        "within_limit": (limit is None or ratio <= limit) and (limit_ms is None or medians["http"] <= limit_ms),
    }
    typer.echo(json.dumps(report, indent=2))
    if not report["within_limit"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
