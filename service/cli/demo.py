"""`make demo`: starts the service as a line would run it, sends it sample images, shows what it answers.

    python -m service.cli.demo [--models models] [--samples docs/samples] [--out demo-out] [--keep]

It talks to the service over HTTP like any camera, so what it shows is what a line gets.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plumbline_client import Client, ServiceProblem
from plumbline_client.schemas.inspection import Inspection
from plumbline_client.schemas.product import Readiness
from service.settings import PREFIX

START_TIMEOUT_S = 120.0  # a cold disk and a slow CPU
STOP_TIMEOUT_S = 45.0
REQUEST_TIMEOUT_S = 60.0
SUFFIXES = {".jpg", ".jpeg", ".png"}
COLOURS = {"pass": "green", "review": "yellow", "fail": "red", "invalid": "magenta"}

console = Console(highlight=False)


class DemoFailure(Exception):
    """The demo cannot go on; the message says why and what to do."""


class RunningService:
    """A service process of the demo's own."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log_file: Path) -> None:
        self.process = process
        self.url = url
        self.log_file = log_file

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> Readiness:
        """Waits for /health/ready to answer 200.

        Raises:
            DemoFailure: The process ended, or it is not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        reasons = "it does not answer."
        with Client(self.url, timeout_s=5.0) as client:
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    code = self.process.returncode
                    raise DemoFailure(f"the service ended with exit code {code}:\n{self._last_words()}")
                try:
                    state = client.readiness()
                except httpx.TransportError:
                    time.sleep(0.1)  # the port is not open yet
                    continue
                if state.status in {"ready", "degraded"}:
                    return state
                reasons = " ".join(state.reasons)
                if state.status == "not-ready":
                    break  # nothing more is being loaded: waiting would not help
                time.sleep(0.1)
        raise DemoFailure(f"the service is not ready: {reasons} Its log is {self.log_file}.")

    def stop(self) -> None:
        """Asks it to finish what it accepted and to end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _last_words(self) -> str:
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n".join(lines[-5:]) or "it wrote no log"


@contextmanager
def running_service(models: Path, out: Path, port: int) -> Iterator[RunningService]:
    """Starts `plumbline serve` with the settings' defaults and stops it at the end.

    Settings from the environment (PLUMBLINE_PROVIDER, for instance) hold; folders and port are the demo's.
    """
    out.mkdir(parents=True, exist_ok=True)
    port = port if _is_free(port) else 0
    port = port or _free_port()
    log_file = out / "service.log"
    environment = os.environ | {
        f"{PREFIX}MODELS": str(models),
        f"{PREFIX}DATA": str(out / "data"),
        f"{PREFIX}PORT": str(port),
        f"{PREFIX}HOST": "127.0.0.1",
        f"{PREFIX}SHUTDOWN_DELAY_S": "0",  # no load balancer has to notice
    }
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("plumbline"), "serve"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    service = RunningService(process, f"http://127.0.0.1:{port}", log_file)
    try:
        yield service
    finally:
        service.stop()


def inspect_samples(
    client: Client, product: str, samples: Sequence[Path], heatmaps: Path
) -> list[tuple[Path, Inspection, float]]:
    """Sends every image and saves its heatmap.

    Returns:
        For every image: the file, the answer, and the seconds that the answer took over HTTP.

    Raises:
        ServiceProblem: The service refused an image.
    """
    heatmaps.mkdir(parents=True, exist_ok=True)
    results = []
    for sample in samples:
        started = time.perf_counter()
        inspection = client.inspect(product, sample.read_bytes(), part_id=sample.stem, station="demo")
        seconds = time.perf_counter() - started
        (heatmaps / f"{sample.stem}.png").write_bytes(client.heatmap(inspection.id, "png"))
        results.append((sample, inspection, seconds))
    return results


def verdict_table(results: Sequence[tuple[Path, Inspection, float]]) -> Table:
    """Verdicts side by side, each with what it rests on."""
    thresholds = results[0][1].thresholds
    promise = (
        f"at most {thresholds.target_false_reject_rate:.1%} of good parts fail, "
        f"{'certified' if thresholds.certified else 'estimated'} by {thresholds.calibration_images} good images"
        if thresholds.target_false_reject_rate is not None
        else "thresholds set by hand"
    )
    table = Table(
        title=f"{results[0][1].product}: fail above {thresholds.fail:.4g}, review above {thresholds.review:.4g}",
        caption=promise,
    )
    for heading in ("image", "verdict"):
        table.add_column(heading, no_wrap=True)
    for heading in ("score", "p-value", "regions", "largest\nx, y, w, h", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for sample, inspection, seconds in results:
        largest = max(inspection.regions, key=lambda region: region.area_px, default=None)
        table.add_row(
            escape(sample.stem),
            f"[{COLOURS[inspection.decision]}]{inspection.decision}[/]",
            "" if inspection.score is None else f"{inspection.score:.4g}",
            "" if inspection.p_value is None else f"{inspection.p_value:.3f}",
            str(len(inspection.regions)),
            ", ".join(map(str, largest.bbox)) if largest else "",
            f"{1000 * seconds:.0f}",
        )
    return table


def main(
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    samples: Annotated[Path, typer.Option(help="Folder of JPEG or PNG images.")] = Path("docs/samples"),
    product: Annotated[str, typer.Option(help="Which product they show.")] = "washer",
    out: Annotated[Path, typer.Option(help="Where heatmaps, log and stored inspections go.")] = Path("demo-out"),
    port: Annotated[int, typer.Option(help="TCP port; another one if it is taken.")] = 8000,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the service running until Ctrl-C.")] = False,
) -> None:
    """Start the service, inspect sample images, show the verdicts, stop the service."""
    images = sorted(path for path in samples.glob("*") if path.suffix.lower() in SUFFIXES)
    try:
        if not images:
            raise DemoFailure(f"there is no JPEG or PNG image in {samples}: name another folder with --samples.")
        console.print(f"Starting the service on the products of {escape(str(models))} ...")
        with running_service(models, out, port) as service:
            state = service.wait_until_ready()
            if product not in state.products:
                raise DemoFailure(f"product {product!r} is not served: {', '.join(state.products)} are.")
            with Client(service.url, timeout_s=REQUEST_TIMEOUT_S) as client:
                results = inspect_samples(client, product, images, out / "heatmaps")
            console.print(verdict_table(results))
            console.print(f"Heatmaps: {escape(str(out / 'heatmaps'))}")
            _show_the_way(service.url, product, images[0], keep)
            if keep:
                service.process.wait()
    except (DemoFailure, ServiceProblem) as error:
        console.print(f"[red]The demo stopped:[/] {escape(str(error))}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("Stopped.")


def _show_the_way(url: str, product: str, image: Path, keep: bool) -> None:
    if not keep:
        console.print(
            "The service is stopped again. `make demo KEEP=1` keeps it running, `make serve` starts it alone."
        )
        return
    for title, address in (("API", "/docs"), ("Health", "/health/ready"), ("Metrics", "/metrics")):
        console.print(f"{title + ':':<9}{url}{address}")
    console.print(
        "Try:     curl -H 'Content-Type: image/jpeg' --data-binary "
        f"@{escape(shlex.quote(str(image)))} {url}/v1/products/{product}/inspections",
        soft_wrap=True,
    )
    console.print("Ctrl-C stops the service.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # A port whose last owner just left is free for a server, which sets the same option.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    typer.run(main)
