"""Compare the throughput of a saturated service with that of a bare loop that decodes and runs the graph.

    OMP_NUM_THREADS=1 python -m benchmarks.saturation --product washer

The bare loops use decoder and graph alone, with one camera image that is decoded again for each run and resized once.
Every layout of threads is measured: one loop with a session of all cores; as many loops as cores, each with a session
of one thread; and as many loops as cores that share one session of all cores. The service chooses between the last two
ways when it loads a bundle, and runs an image that is alone on all cores. Then the service inspects the same image for
several clients in a process of their own. All are measured in turn, several times, so other load on the machine affects
all of them; each figure is the median. Prints JSON; exits with code 1 if the service has less than `--limit` of the
throughput of the best layout.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import typer

from benchmarks.latency import bare_session
from benchmarks.load import Group, RunningLoad, good_jpeg, inspection_head, require_judged
from benchmarks.overload import cpu_s
from service.bundle.bundle import Bundle, bundle_folders
from service.inspection.decoded_image import decode_for
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.preparation import prepare
from service.inspection.runtime.configure import configure
from service.inspection.runtime.threads import cpu_quota
from tests.serving import ServiceProcess, service_process


class Layout:
    """Loops that decode an image and run a graph.

    Args:
        bundle: The bundle.
        data: The image.
        sessions: The sessions of the loops, one loop each; loops may share one.
    """

    def __init__(self, bundle: Bundle, data: bytes, sessions: Sequence[ort.InferenceSession]) -> None:
        self._geometry = bundle.manifest.input
        self._data = data
        self._sessions = sessions
        # Resizing is part of the service's overhead, so it is not measured.
        self._prepared = prepare(self._decode(), self._geometry)[None]

    def measure(self, seconds: float) -> float:
        """Return the images per second of all loops together."""
        counts = [0] * len(self._sessions)
        end = time.perf_counter() + seconds

        def loop(number: int) -> None:
            while time.perf_counter() < end:
                self._decode()
                self._sessions[number].run(None, {"image": self._prepared})
                counts[number] += 1

        started = time.perf_counter()
        threads = [threading.Thread(target=loop, args=(number,)) for number in range(len(self._sessions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - started)

    def outputs(self) -> list[npt.NDArray[np.float32]]:
        """Return the outputs of the first session."""
        return [np.asarray(output) for output in self._sessions[0].run(None, {"image": self._prepared})]

    def _decode(self) -> npt.NDArray[np.uint8]:
        return decode_for(self._data, ImageLimits(), self._geometry).rgb


def bare_layouts(bundle: Bundle, data: bytes, cores: int) -> dict[str, Layout]:
    """Return the layouts of threads, by their names."""
    model = bundle.read_model()
    wide = bare_session(model, cores)
    return {
        f"1 loop, {cores} threads": Layout(bundle, data, [wide]),
        f"{cores} loops, 1 thread each": Layout(bundle, data, [bare_session(model, 1) for _ in range(cores)]),
        f"{cores} loops share {cores} threads": Layout(bundle, data, [wide] * cores),
    }


def saturate(
    service: ServiceProcess, product: str, body: bytes, clients: int, seconds: float
) -> tuple[float, float, float]:
    """Load the service, and return images per second, and processor time per image of service and clients in ms."""
    port = int(service.url.rpartition(":")[2])
    group = Group("clients", clients, 1, obeys=True)
    load = RunningLoad(port, inspection_head(product, body), body, [group], 1.0, seconds)
    load.wait_for("begin")
    before = cpu_s(service)
    load.wait_for("end")
    spent = cpu_s(service) - before
    result = load.result()
    outcome = result.outcomes[group.name]
    if outcome.others or not outcome.latencies_s:
        raise RuntimeError(f"not every image was inspected: {dict(outcome.others)}")
    count = len(outcome.latencies_s)
    return count / result.seconds, 1000 * spent / count, 1000 * result.cpu_s / count


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")] = "washer",
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    image: Annotated[Path | None, typer.Option(help="JPEG to post; a golden sample of the bundle by default.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="Measured seconds per round, of each layout and service.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 5,
    setting: Annotated[list[str] | None, typer.Option(help="Further settings, such as concurrent_runs=1.")] = None,
    limit: Annotated[float, typer.Option(help="Smallest accepted ratio of the throughputs.")] = 0.85,
) -> None:
    """Measure the layouts and the service in turn."""
    configure()
    body = image.read_bytes() if image else good_jpeg(models, product)
    bundle = Bundle.load(bundle_folders((models / product).absolute())[0])
    cores = cpu_quota()
    layouts = bare_layouts(bundle, body, cores)
    settings = {"provider": "cpu"} | dict(pair.split("=", 1) for pair in setting or [])
    found: dict[str, list[float]] = {name: [] for name in (*layouts, "http")}
    processor: list[tuple[float, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        service_process(models.absolute(), Path(folder), settings) as service,
    ):
        service.wait_until(200)
        require_judged(service, product, body)
        saturate(service, product, body, clients, 1)
        for _ in range(rounds):
            for name, layout in layouts.items():
                found[name].append(layout.measure(seconds))
            throughput, *spent = saturate(service, product, body, clients, seconds)
            found["http"].append(throughput)
            processor.append((spent[0], spent[1]))
    medians = {name: statistics.median(values) for name, values in found.items()}
    best = max(layouts, key=lambda name: medians[name])
    ratios = [http / bare for http, bare in zip(found["http"], found[best], strict=True)]
    report = {
        "product": product,
        "bundle": bundle.version,
        "image_bytes": len(body),
        "cores": cores,
        "clients": clients,
        "settings": settings,
        "images_per_s": {name: round(value, 1) for name, value in medians.items()},
        "rounds": {name: [round(value, 1) for value in values] for name, values in found.items()},
        "processor_ms_per_image": {
            "service": round(statistics.median(service_ms for service_ms, _ in processor), 2),
            "clients": round(statistics.median(clients_ms for _, clients_ms in processor), 2),
        },
        "layouts_bit_identical": are_identical([layout.outputs for layout in layouts.values()]),
        "best_layout": best,
        "ratio": round(statistics.median(ratios), 3),
        "limit": limit,
        "within_limit": statistics.median(ratios) >= limit,
    }
    typer.echo(json.dumps(report, indent=2))
    if not report["within_limit"]:
        raise typer.Exit(1)


def are_identical(runs: Sequence[Callable[[], list[npt.NDArray[np.float32]]]]) -> bool:
    """Return whether all runs have the same outputs to the last bit."""
    first, *others = [run() for run in runs]
    return all(np.array_equal(a, b) for other in others for a, b in zip(first, other, strict=True))


if __name__ == "__main__":
    typer.run(main)
