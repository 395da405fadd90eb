"""Check CUDA, and TensorRT on request, on a machine with a GPU; `benchmarks/gpu.sh` runs it with a time limit.

- parity: the golden samples, and every batch size up to 8 in comparison with the CPU
- placement: which provider ran each operator, from ONNX Runtime's profile; no convolution or matrix product may run on
  the CPU
- latency of the graph for batches of 1, 4 and 8 images
- throughput over HTTP with 1 and 8 clients, with the provider that the responses and the metrics name
- no silent fallback: a service that must use CUDA and sees no GPU is not ready, and names the reason

Prints JSON. Exits with code 1 if a check fails and with code 2 if CUDA cannot be used.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import onnxruntime as ort
import typer

from benchmarks.load import Group, RunningLoad, good_jpeg
from service.bundle.bundle import Bundle, bundle_folders
from service.bundle.golden import parity_difference
from service.inspection.runtime.cuda import cuda_problems
from service.inspection.runtime.session import (
    GraphSession,
    RequestedProvider,
    SessionOptions,
    providers,
    session_options,
)
from service.inspection.runtime.tensorrt import tensorrt_problems
from tests.serving import service_process

BATCHES = (1, 4, 8)
MAX_BATCH = 8
TIMED_RUNS = 50
HEAVY = frozenset({"Conv", "ConvTranspose", "FusedConv", "Gemm", "MatMul", "FusedMatMul", "QLinearConv"})
_WARM_UP = 5
_LOAD_S = 8.0
_START_S = 200.0  # TensorRT compiles the graph


def placement(events: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Return the operators that each execution provider ran, from the events of ONNX Runtime's profile."""
    found: dict[str, Counter[str]] = {}
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in arguments and event["name"].endswith("_kernel_time"):
            found.setdefault(arguments["provider"], Counter())[arguments["op_name"]] += 1
    return found


def profile(model: bytes, options: SessionOptions, image: np.ndarray[Any, Any]) -> dict[str, Counter[str]]:
    """Run a graph once and return which provider ran its operators."""
    native = session_options(options)
    native.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        native.profile_file_prefix = str(Path(folder) / "profile")
        chosen = providers(options, ort.get_available_providers(), model)
        session = ort.InferenceSession(model, native, providers=chosen)
        session.run(None, {"image": image[None]})
        return placement(json.loads(Path(session.end_profiling()).read_text()))


def heavy_on_cpu(found: Mapping[str, Counter[str]]) -> list[str]:
    """Return the operators that ran on the CPU and should not have."""
    return sorted(HEAVY & found.get("CPUExecutionProvider", Counter()).keys())


def measure_graph(bundle: Bundle, provider: RequestedProvider, cache: Path) -> dict[str, Any]:
    """Return parity, placement and latency of a bundle's graph on a provider."""
    model = bundle.read_model()
    options = SessionOptions(provider, max_batch=MAX_BATCH, engine_cache=cache)
    started = time.perf_counter()
    session = GraphSession(model, options)
    opened_s = time.perf_counter() - started
    cpu = GraphSession(model, SessionOptions("cpu"))
    images = np.stack([bundle.golden[index % len(bundle.golden)].image for index in range(MAX_BATCH)])
    expected = cpu.run(images).maps
    differences = {
        size: parity_difference(expected[:size], session.run(images[:size]).maps) for size in range(1, MAX_BATCH + 1)
    }
    latency = {}
    for size in BATCHES:
        seconds = []
        for _ in range(_WARM_UP + TIMED_RUNS):
            started = time.perf_counter()
            session.run(images[:size])
            seconds.append(time.perf_counter() - started)
        measured = 1000 * np.array(seconds[_WARM_UP:])
        latency[size] = {
            "median_ms": round(float(np.median(measured)), 3),
            "p95_ms": round(float(np.quantile(measured, 0.95)), 3),
            "images_per_s": round(1000 * size / float(np.median(measured)), 1),
        }
    ran = profile(model, options, images[0])
    parity = session.self_test(bundle.golden)
    tolerance = bundle.manifest.parity.tolerance
    return {
        "provider": session.provider,
        "opened_s": round(opened_s, 1),
        "parity": parity,
        "difference_from_cpu": {str(size): value for size, value in differences.items()},
        "tolerance": tolerance,
        "operators": {name: dict(operators) for name, operators in ran.items()},
        "latency": {str(size): values for size, values in latency.items()},
        "checks": {
            "provider in use": session.provider == provider,
            "parity": max(parity, *differences.values()) <= tolerance,
            "nothing heavy on the CPU": not heavy_on_cpu(ran),
        },
    }


def measure_service(models: Path, product: str, provider: str) -> dict[str, Any]:
    """Return the throughput over HTTP, and whether responses and metrics name the provider."""
    body = good_jpeg(models, product)
    path = f"/v1/products/{product}/inspections"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    settings = {"provider": provider, "self_test_timeout_s": str(_START_S)}
    with (
        tempfile.TemporaryDirectory() as data,
        service_process(models.absolute(), Path(data), settings) as service,
    ):
        service.wait_until(200, timeout_s=_START_S)
        verdict = httpx.post(service.url + path, content=body, headers={"content-type": "image/jpeg"}, timeout=60)
        metrics = httpx.get(f"{service.url}/metrics").text
        named = [line for line in metrics.splitlines() if line.startswith("inspection_model_info{")]
        throughput = {}
        for clients in (1, 8):
            port = int(service.url.rpartition(":")[2])
            load = RunningLoad(port, head.encode(), body, [Group("cameras", clients, 1, obeys=True)], 2.0, _LOAD_S)
            load.wait_for("begin")
            load.wait_for("end")
            outcome = load.result().outcomes["cameras"]
            throughput[str(clients)] = {
                "per_second": round(len(outcome.latencies_s) / _LOAD_S, 1),
                "median_ms": round(1000 * float(np.median(outcome.latencies_s or [np.nan])), 2),
                "others": dict(outcome.others),
            }
    return {
        "clients": throughput,
        "checks": {
            "response names the provider": verdict.json().get("provider") == provider,
            "metrics name the provider": bool(named) and all(f'provider="{provider}"' in line for line in named),
        },
    }


def check_refusal(models: Path) -> dict[str, Any]:
    """Start a service that must use CUDA and sees no GPU; return what it reports."""
    with (
        tempfile.TemporaryDirectory() as data,
        service_process(models.absolute(), Path(data), {"provider": "cuda"}, {"CUDA_VISIBLE_DEVICES": ""}) as service,
    ):
        ready = service.wait_until(503)
    reported = ready.text
    return {
        "status": ready.status_code,
        "reported": reported[:600],
        "checks": {"not ready without a GPU": ready.status_code == 503 and "provider-unavailable" in reported},
    }


def cards() -> list[str]:
    """Return name, driver version and memory of every GPU, as nvidia-smi states them."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()


def failures(report: Mapping[str, Any]) -> list[str]:
    """Return the checks that failed, with the part of the report that they belong to."""
    return [
        f"{part}: {name}"
        for part, values in report.items()
        if isinstance(values, Mapping)
        for name, passed in values.get("checks", {}).items()
        if not passed
    ]


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")] = "washer",
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    tensorrt: Annotated[bool, typer.Option("--tensorrt", help="Also check TensorRT.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
) -> None:
    """Check a machine with a GPU."""
    if problems := cuda_problems() + (tensorrt_problems() if tensorrt else []):
        typer.echo(f"Nothing was measured: {' '.join(problems)}", err=True)
        raise typer.Exit(2)
    bundle = Bundle.load(bundle_folders((models / product).absolute())[0])
    report: dict[str, Any] = {
        "cards": cards(),
        "onnxruntime": ort.__version__,
        "bundle": f"{product} {bundle.version} ({bundle.manifest.precision})",
    }
    requested: list[RequestedProvider] = ["cuda", "tensorrt"] if tensorrt else ["cuda"]
    with tempfile.TemporaryDirectory() as cache:
        for provider in requested:
            report[f"{provider} graph"] = measure_graph(bundle, provider, Path(cache) / "tensorrt")
            report[f"{provider} service"] = measure_service(models, product, provider)
    report["refusal"] = check_refusal(models)
    report["failed"] = failures(report)
    text = json.dumps(report, indent=2)
    typer.echo(text)
    if out is not None:
        out.write_text(text + "\n")
    if report["failed"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
