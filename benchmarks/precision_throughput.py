"""Compare the throughput over HTTP of an fp32 and an int8 bundle, on ONNX Runtime and on OpenVINO.

    python -m training.demo.part runs/washer-parts --train 250 --test 20 --seed 0
    python -m benchmarks.precision_throughput --models models --product washer --data runs/washer-parts [--openvino]

Converts the newest fp32 bundle of the product to int8, for each runtime on which it is measured, and starts one service
for each of: fp32 and int8 on ONNX Runtime and, with `--openvino`, both on OpenVINO. Several clients load one service
after another for some seconds, in a new order every round, so other load on the machine affects all alike. Throughputs
are compared within a round, and the medians of these ratios are reported. Prints JSON; exits with code 1 if a ratio is
below its target.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.load import Group, RunningLoad, good_jpeg, require_judged
from benchmarks.overload import cpu_s
from service.bundle.bundle import Bundle, bundle_folders
from service.inspection.runtime.session import RequestedProvider
from service.inspection.runtime.threads import cpu_quota
from tests.serving import ServiceProcess, service_process
from training.cli.progress import ProgressBars
from training.conversion import Request, convert
from training.pipeline import inspector_options

TARGETS = {"int8 onnxruntime": 1.4, "int8 openvino": 1.7}
REFERENCE = "fp32 onnxruntime"
_WARM_UP_S = 1.0


@dataclass
class Variant:
    """A bundle on a runtime, and what was measured.

    Attributes:
        name: Precision and runtime.
        bundle: The bundle.
        provider: The setting of the service.
        service: The running service.
        per_s: Inspections per second of each round.
        processor_ms: Processor time per inspection of each round, in milliseconds.
    """

    name: str
    bundle: Bundle
    provider: str
    service: ServiceProcess
    per_s: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)

    def load(self, head: bytes, body: bytes, clients: int, seconds: float) -> None:
        """Load the service for some seconds and record the throughput.

        Raises:
            RuntimeError: A request failed.
        """
        port = int(self.service.url.rpartition(":")[2])
        running = RunningLoad(port, head, body, [Group("cameras", clients, 1, obeys=True)], _WARM_UP_S, seconds)
        running.wait_for("begin")
        before = cpu_s(self.service)
        running.wait_for("end")
        spent = cpu_s(self.service) - before
        load = running.result()
        outcome = load.outcomes["cameras"]
        if outcome.others or not outcome.latencies_s:
            raise RuntimeError(f"{self.name}: {dict(outcome.others) or 'no inspection'}")
        self.per_s.append(len(outcome.latencies_s) / load.seconds)
        self.processor_ms.append(1000 * spent / len(outcome.latencies_s))

    def report(self) -> dict[str, Any]:
        """Return the medians."""
        return {
            "bundle": self.bundle.version,
            "per_second": round(statistics.median(self.per_s), 1),
            "processor_ms_per_inspection": round(statistics.median(self.processor_ms), 2),
        }


def ratios(variants: list[Variant]) -> dict[str, float]:
    """Return for every variant the median over the rounds of its throughput relative to that of the reference."""
    (reference,) = [variant for variant in variants if variant.name == REFERENCE]
    return {
        variant.name: statistics.median(own / base for own, base in zip(variant.per_s, reference.per_s, strict=True))
        for variant in variants
    }


def newest_fp32(models: Path, product: str) -> Bundle:
    """Return the newest fp32 bundle of a product.

    Raises:
        LookupError: There is none.
    """
    for path in bundle_folders((models / product).absolute()):
        bundle = Bundle.load(path)
        if bundle.manifest.precision == "fp32":
            return bundle
    raise LookupError(f"there is no fp32 bundle in {models / product}")


def main(
    data: Annotated[Path, typer.Option(help="The folder that the bundle was trained on.")],
    product: Annotated[str, typer.Option(help="Product to inspect.")] = "washer",
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    openvino: Annotated[bool, typer.Option("--openvino", help="Also measure OpenVINO.")] = False,
    clients: Annotated[int, typer.Option(min=1, help="Number of connections.")] = 8,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    seconds: Annotated[float, typer.Option(help="Measured time of each service in a round.")] = 4.0,
) -> None:
    """Compare the throughput of precisions and runtimes."""
    body = good_jpeg(models, product)
    lines = (
        f"POST /v1/products/{product}/inspections HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: image/jpeg",
        f"Content-Length: {len(body)}",
    )
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    source = newest_fp32(models, product)
    providers: list[tuple[str, RequestedProvider]] = [("onnxruntime", "cpu")]
    if openvino:
        providers.append(("openvino", "openvino"))
    with ExitStack() as stack, ProgressBars() as bars:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        variants = []
        for runtime, provider in providers:
            shutil.copytree(source.path, folder / runtime / "fp32" / product / source.version)
            request = Request(source, data, folder / runtime / "int8")
            converted = convert(request, inspector_options(cpu_quota(), provider), bars).bundle
            for precision, bundle in (("fp32", source), ("int8", converted)):
                repository, name = folder / runtime / precision, f"{precision} {runtime}"
                store = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                service = stack.enter_context(service_process(repository, store, {"provider": provider}))
                service.wait_until(200)
                require_judged(service, product, body)
                variants.append(Variant(name, bundle, provider, service))
        order = random.Random(0)
        for _ in range(rounds):
            for variant in order.sample(variants, len(variants)):
                variant.load(head, body, clients, seconds)
                typer.echo(f"{variant.name}: {variant.per_s[-1]:.1f} per second", err=True)
    found = ratios(variants)
    met = {name: found[name] >= target for name, target in TARGETS.items() if name in found}
    report = {
        "product": product,
        "image_bytes": len(body),
        "threads": cpu_quota(),
        "clients": clients,
        "rounds": rounds,
        "variants": {variant.name: variant.report() for variant in variants},
        "ratios": {name: round(ratio, 3) for name, ratio in found.items()},
        "targets": TARGETS,
        "met": met,
    }
    typer.echo(json.dumps(report, indent=2))
    if not all(met.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
