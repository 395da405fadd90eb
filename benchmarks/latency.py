"""What the service adds to decoding and inference, for one camera.

    python -m benchmarks.latency --models models --product washer

Starts a real service, posts the same 1024 x 1024 JPEG again and again over one connection, and between the requests
decodes the image and runs the same graph in bare ONNX Runtime, so that both meet the same noise. Prints JSON; exits
with 1 where the ratio of the medians is above `--limit`.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import onnxruntime as ort
import typer

from service.bundle.bundle import Bundle, bundle_folders
from service.inspection import preparation
from service.inspection.decoding import decoder
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.runtime.configure import configure
from service.inspection.runtime.threads import cpu_quota
from tests.serving import service_process


def textured_jpeg(size: int = 1024, seed: int = 0) -> bytes:
    """An image with as much detail as a photograph, as JPEG of quality 90."""
    generator = np.random.default_rng(seed)
    # Noise of every scale, strongest in the coarse ones: the spectrum of natural images.
    image = np.zeros((size, size, 3), np.float32)
    for octave in range(2, 10):
        cells = 2**octave
        noise = generator.standard_normal((cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC) * 2.0 ** (5 - octave / 2)
    pixels = np.clip(128 + 2 * image, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def bare_session(model: bytes) -> ort.InferenceSession:
    """ONNX Runtime with nothing of ours around it, on as many threads as the service takes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = cpu_quota()
    # As in the service: workers that spin between the runs would take the cores from whoever is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")],
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    image: Annotated[Path | None, typer.Option(help="JPEG to post; a rendered one by default.")] = None,
    rounds: Annotated[int, typer.Option(min=10, help="Requests to measure.")] = 200,
    limit: Annotated[float, typer.Option(help="Largest acceptable ratio.")] = 1.5,
) -> None:
    """Measure the median latency over HTTP against decoding plus a bare run of the graph."""
    configure()
    data = image.read_bytes() if image else textured_jpeg()
    bundle = Bundle.load(bundle_folders((models / product).absolute())[0])
    session = bare_session(bundle.read_model())
    limits = ImageLimits()
    path = f"/v1/products/{product}/inspections"
    times: dict[str, list[float]] = {"decode": [], "run": [], "bare": [], "http": []}
    stages: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        service_process(models.absolute(), Path(folder), {"provider": "cpu"}) as service,
    ):
        service.wait_until(200)
        # The standard library's client: what a heavier one costs is not the service's doing.
        with closing(http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=60)) as client:
            for turn in range(rounds + 10):
                started = time.perf_counter()
                rgb = decoder.decode(data, limits)
                decoded = time.perf_counter()
                # Resizing is the service's own business, so it does not count here.
                prepared = preparation.prepare(rgb, bundle.manifest.input)[None]
                before = time.perf_counter()
                session.run(None, {"image": prepared})
                after = time.perf_counter()
                client.request("POST", path, data, {"content-type": "image/jpeg"})
                response = client.getresponse()
                answer = response.read()
                answered = time.perf_counter()
                if response.status != 201:
                    raise RuntimeError(f"{response.status}: {answer.decode()}")
                if turn < 10:
                    continue  # caches and clocks settle
                times["decode"].append(decoded - started)
                times["run"].append(after - before)
                times["bare"].append(decoded - started + after - before)
                times["http"].append(answered - after)
                for stage, milliseconds in json.loads(answer)["timings_ms"].items():
                    stages.setdefault(stage, []).append(milliseconds)
    medians = {name: round(1000 * statistics.median(values), 3) for name, values in times.items()}
    ratio = medians["http"] / medians["bare"]
    report = {
        "product": product,
        "bundle": bundle.version,
        "image_bytes": len(data),
        "rounds": rounds,
        "threads": cpu_quota(),
        "median_ms": medians,
        # What the same code does when nobody else wants the cores: the figure to compare on a busy machine.
        "p10_ms": {name: round(1000 * float(np.quantile(values, 0.1)), 3) for name, values in times.items()},
        "p95_ms": {name: round(1000 * float(np.quantile(values, 0.95)), 3) for name, values in times.items()},
        "service_stage_median_ms": {name: statistics.median(values) for name, values in stages.items()},
        "ratio": round(ratio, 3),
        "limit": limit,
        "within_limit": ratio <= limit,
    }
    typer.echo(json.dumps(report, indent=2))
    if ratio > limit:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
