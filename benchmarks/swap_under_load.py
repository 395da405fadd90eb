"""Activate and roll back bundles under load: no request may fail, no verdict may be inconsistent, memory must not grow.

    python -m benchmarks.swap_under_load
    python -m benchmarks.swap_under_load --models models --product washer

Starts a service process with two bundles of one product that decide differently: tiny ones by default, or the newest
bundle of the given product and a copy of it with another score rule and other calibration scores. Eight clients inspect
continuously while one bundle is activated and rolled back a hundred times. Then every stored verdict is replayed with
the bundle and the recipe that it refers to. Prints JSON; exits with code 1 if a request failed, a verdict refers to a
recipe of another bundle or is not reproduced bit by bit, or memory grew by more than 10 %.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import onnx
import typer
from onnx import helper

from benchmarks.soak import probe
from service.bundle.bundle import Bundle, newest_bundle
from service.bundle.manifest import MODEL, ManifestDraft, graph_metadata
from service.bundle.writer import write_bundle
from service.deployment.configuration import bundle_loader
from service.deployment.replay import Replayer, newest_since
from service.deployment.sources.folder import FolderSource
from service.errors import PlumblineError
from service.inspection.runtime.configure import configure
from service.settings import Settings
from service.store.artefacts.local import LocalFiles
from service.store.database import open_read_only_engine
from service.store.store import Store
from tests.bundles import SCORES, part, write_tiny_bundle
from tests.running_service import encode
from tests.serving import ServiceProcess, service_process

WHO = {"author": "benchmark", "reason": "swap under load"}
WARM_UP = 50  # inspections per client before the first measurement of memory


@dataclass
class Run:
    """Measurements under load.

    Attributes:
        verdicts: Bodies of the successful responses.
        failures: Descriptions of all other responses and of connection errors.
        latencies_s: Latency of each inspection in seconds.
        swap_s: Latency of each change in seconds.
        memory_bytes: Resident memory before the first change and after each change.
        live_s: Latencies of /health/live in seconds.
        seconds: Duration.
    """

    verdicts: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    swap_s: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    live_s: list[float] = field(default_factory=list)
    seconds: float = 0.0


def swap_under_load(
    service: ServiceProcess, product: str, version: str, images: list[bytes], *, clients: int, swaps: int
) -> Run:
    """Inspect with several clients while a bundle is alternately activated and rolled back.

    Args:
        service: A running service in which another bundle of the product is active.
        product: Product to inspect.
        version: Version of the bundle to activate.
        images: Encoded images, sent in rotation.
        clients: Number of concurrent clients, each with its own connection.
        swaps: Number of changes; every second one is a roll-back.
    """
    run, over, lock = Run(), threading.Event(), threading.Lock()

    def client(number: int) -> None:
        with httpx.Client(base_url=service.url, timeout=60) as http:
            for image in itertools.cycle(images[number % len(images) :] + images[: number % len(images)]):
                if over.is_set():
                    return
                started = time.perf_counter()
                try:
                    response = http.post(
                        f"/v1/products/{product}/inspections",
                        content=image,
                        headers={"content-type": "application/octet-stream"},
                    )
                except httpx.TransportError as error:
                    with lock:
                        run.failures.append(repr(error))
                    return
                with lock:
                    run.latencies_s.append(time.perf_counter() - started)
                    if response.status_code == 201:
                        run.verdicts.append(response.json())
                    else:
                        run.failures.append(f"{response.status_code} {response.text}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    # The probe runs in a separate process. In this one, it would measure delays caused by the clients.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    prober = context.Process(target=probe, args=(service.url, sender))
    prober.start()
    sender.close()
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    try:
        with httpx.Client(base_url=f"{service.url}/v1/products/{product}", timeout=120) as operator:
            _wait_for_verdicts(run, threads, WARM_UP * clients)
            run.memory_bytes.append(service.rss_bytes())
            for number in range(swaps):
                path = f"/bundles/{version}:activate" if number % 2 == 0 else "/bundles:rollback"
                requested = time.perf_counter()
                changed = operator.post(path, json=WHO)
                run.swap_s.append(time.perf_counter() - requested)
                if changed.status_code != 200:
                    run.failures.append(f"{path}: {changed.status_code} {changed.text}")
                # Each bundle inspects some images before the next change.
                _wait_for_verdicts(run, threads, len(run.verdicts) + clients)
                run.memory_bytes.append(service.rss_bytes())
    finally:
        over.set()
        for thread in threads:
            thread.join()
        run.seconds = time.perf_counter() - started
        while receiver.poll():
            run.live_s.append(receiver.recv())
        prober.terminate()
        prober.join()
        receiver.close()
    return run


def _wait_for_verdicts(run: Run, threads: list[threading.Thread], count: int) -> None:
    while len(run.verdicts) < count and any(thread.is_alive() for thread in threads):
        time.sleep(0.002)


def mixtures(run: Run, history: list[dict[str, Any]]) -> int:
    """Return how many verdicts refer to a recipe that belongs to another bundle.

    Args:
        run: The measurements.
        history: All revisions of the product's recipe, as the service lists them.
    """
    bundle_of = {revision["revision"]: revision["bundle_digest"] for revision in history}
    return sum(bundle_of[verdict["recipe_revision"]] != verdict["bundle"]["digest"] for verdict in run.verdicts)


def replay_all(models: Path, data: Path) -> tuple[Counter[str], list[str]]:
    """Replay all stored verdicts. Return the number per outcome, and a message for each that is not the same."""
    settings = Settings(models=models, data=data, provider="cpu")
    store = Store(open_read_only_engine(settings.database), LocalFiles(data / "inspections"), data)
    outcomes: Counter[str] = Counter()
    replay_failures = []
    with Replayer(FolderSource(models), store, bundle_loader(settings)) as replayer:
        for row in newest_since(store.engine, None, None, 10**9):
            try:
                again = replayer.replay(row)
                outcome, about = str(again.outcome), again.summary
            except PlumblineError as error:
                outcome, about = "impossible", error.detail
            outcomes[outcome] += 1
            if outcome != "same":
                replay_failures.append(f"{row.id}: {about}")
    store.close()
    return outcomes, replay_failures


def memory_growth(run: Run) -> float:
    """Return the relative growth of memory from before the first change to after the last ones."""
    last = run.memory_bytes[-max(1, len(run.memory_bytes) // 10) :]
    return float(np.median(last)) / run.memory_bytes[0] - 1


def write_tiny_pair(models: Path) -> tuple[Bundle, Bundle]:
    """Write two tiny bundles of the product "widget" with different scores; the first is newer, so it is active."""
    serving = write_tiny_bundle(models)
    training = serving.manifest.training.model_copy(update={"seed": 1})
    older = serving.manifest.created_at.replace(year=2025)
    scores = [2 * score for score in SCORES]
    return serving, write_tiny_bundle(models, scores=scores, gain=True, training=training, created_at=older)


def write_pair(models: Path, original: Path) -> tuple[Bundle, Bundle]:
    """Write a copy of a bundle, and another bundle with the same weights and different scores."""
    product = Bundle.load(original).manifest.product
    shutil.copytree(original, models / product / original.name)
    serving = Bundle.load(models / product / original.name)
    manifest = serving.manifest
    rule = manifest.score_rule.model_copy(update={"fraction": manifest.score_rule.fraction * 2})
    values = {name: getattr(manifest, name) for name in ManifestDraft.model_fields}
    draft = ManifestDraft(**values | {"score_rule": rule, "created_at": manifest.created_at.replace(year=2020)})
    graph = onnx.load_model_from_string(serving.read_file(MODEL))
    helper.set_model_props(graph, graph_metadata(draft))
    card = serving.card.model_copy(update={"scores": [score * 0.9 for score in serving.card.scores]})
    return serving, write_bundle(
        models, draft=draft, model=graph.SerializeToString(), card=card, golden=list(serving.golden)
    )


def main(
    models: Annotated[Path, typer.Option(help="Model repository; used with --product only.")] = Path("models"),
    product: Annotated[
        str | None, typer.Option(help="Product to inspect; by default, tiny bundles are written.")
    ] = None,
    samples: Annotated[Path, typer.Option(help="Images of the product.")] = Path("docs/samples"),
    swaps: Annotated[int, typer.Option(min=2, help="Number of activations and roll-backs.")] = 100,
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 8,
) -> None:
    """Change bundles under load and check the results."""
    configure()
    with tempfile.TemporaryDirectory() as scratch:
        repository, data = Path(scratch) / "models", Path(scratch) / "data"
        if product is None:
            serving, other = write_tiny_pair(repository)
            images = [encode(part()), encode(part(spot=(20, 30, 8))), encode(part(brightness=140))]
        else:
            newest = newest_bundle(models / product)
            if newest is None:
                raise typer.BadParameter(f"{models / product} holds no bundle")
            serving, other = write_pair(repository, newest.absolute())
            images = [path.read_bytes() for path in sorted(samples.glob("*.jpg"))]
        name = serving.manifest.product
        with service_process(repository, data, {"provider": "cpu"}) as service:
            service.wait_until(200)
            run = swap_under_load(service, name, other.version, images, clients=clients, swaps=swaps)
            with httpx.Client(base_url=service.url, timeout=60) as http:
                revisions = http.get(f"/v1/products/{name}/recipe/revisions", params={"limit": 500}).json()["items"]
                choices = http.get(f"/v1/products/{name}/bundles:history", params={"limit": 500}).json()["items"]
            code = service.terminate()
        started = time.perf_counter()
        outcomes, replay_failures = replay_all(repository, data)
        replay_s = time.perf_counter() - started
    mixed, growth = mixtures(run, revisions), memory_growth(run)
    report = {
        "product": name,
        "bundles": [serving.version, other.version],
        "clients": clients,
        "changes": len(run.swap_s),
        "choices_stored": len(choices),
        "completed": len(run.verdicts),
        "completed_by_bundle": dict(Counter(verdict["bundle"]["version"] for verdict in run.verdicts)),
        "decisions": dict(Counter(verdict["decision"] for verdict in run.verdicts)),
        "failed_requests": len(run.failures),
        "failures": run.failures[:5],
        "verdicts_with_a_recipe_of_another_bundle": mixed,
        "replayed": dict(outcomes),
        "replay_failures": replay_failures[:5],
        "replay_s": round(replay_s, 1),
        "inspections_per_s": round(len(run.verdicts) / run.seconds, 1),
        "latency_ms": quantiles_ms(run.latencies_s),
        "change_ms": quantiles_ms(run.swap_s),
        "live_ms": quantiles_ms(run.live_s),
        "memory_mib": {
            "before": round(run.memory_bytes[0] / 2**20, 1),
            "after": round(run.memory_bytes[-1] / 2**20, 1),
            "peak": round(max(run.memory_bytes) / 2**20, 1),
            "growth": round(growth, 4),
            "every_tenth": [round(value / 2**20) for value in run.memory_bytes[::10]],
        },
        "exit_code": code,
    }
    typer.echo(json.dumps(report, indent=2))
    if run.failures or mixed or set(outcomes) != {"same"} or outcomes["same"] < len(run.verdicts) or growth > 0.1:
        raise typer.Exit(1)


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    """Return the median, the 99 % quantile and the maximum in milliseconds."""
    if not seconds:
        return {}
    median, p99 = np.quantile(seconds, (0.5, 0.99))
    return {
        "median": round(1000 * float(median), 1),
        "p99": round(1000 * float(p99), 1),
        "worst": round(1000 * max(seconds), 1),
    }


if __name__ == "__main__":
    typer.run(main)
