"""`make demo`: start the service, inspect sample images over HTTP, show the results.

    python -m service.cli.demo [--models models] [--samples docs/samples] [--out demo-out] [--keep | --no-keep]

In a terminal, the service keeps running, and samples are inspected again and again, so that its pages show a line at
work: those that passed in turn, and now and then one of those that did not.

The service runs in a process of its own, as in production. It ends together with the demo, also if that is killed.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count, cycle
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from plumbline_client import Client, PlumblineClientError, ServiceUnreachable
from plumbline_client.schemas.inspection import Inspection
from plumbline_client.schemas.product import Readiness
from plumbline_client.schemas.sections import DecisionName
from service.cli.console import COLOURS, FAILURE, OUT, shown
from service.cli.parent import child_setup, end_with_parent, interrupt_on_termination
from service.settings import PREFIX

START_TIMEOUT_S = 120.0  # enough for a cold disk and a slow CPU
STOP_TIMEOUT_S = 45.0
REQUEST_TIMEOUT_S = 60.0
SUFFIXES = {".jpg", ".jpeg", ".png"}
RARE = 50
"""Of the repeated samples, one in so many is one that did not pass. More than about 3 % would raise the alarm about a
jump of the fail rate, as long as too few parts are known to compare with."""


class DemoFailure(Exception):
    """The demo cannot continue; the message states the reason and what to do."""


class RunningService:
    """A service process that the demo started.

    Attributes:
        process: The process.
        url: Base URL of the service.
        log_file: File with the log of the service.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str, log_file: Path) -> None:
        self.process = process
        self.url = url
        self.log_file = log_file

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> Readiness:
        """Wait until the service is ready, and return its readiness.

        Raises:
            DemoFailure: The process ended, or the service is not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        reasons = "it does not respond."
        with Client(self.url, timeout_s=5.0) as client:
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    code = self.process.returncode
                    raise DemoFailure(f"the service exited with code {code}:\n{self._log_tail()}")
                try:
                    state = client.readiness()
                except ServiceUnreachable:
                    time.sleep(0.1)  # the port is not open yet
                    continue
                if state.status in {"ready", "degraded"}:
                    return state
                reasons = " ".join(state.reasons)
                if state.status == "not-ready":
                    break  # no bundle is being loaded, so waiting would not help
                time.sleep(0.1)
        raise DemoFailure(f"the service is not ready: {reasons} See its log in {self.log_file}.")

    def stop(self) -> None:
        """Stop the service. It completes the requests in flight first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _log_tail(self) -> str:
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n".join(lines[-5:]) or "(the log is empty)"


@contextmanager
def running_service(models: Path, out: Path, port: int) -> Iterator[RunningService]:
    """Start `plumbline serve` and stop it at the end of the block.

    Settings of the environment, such as PLUMBLINE_PROVIDER, apply, except for folders, host and port.

    Args:
        models: Folder of the model repository.
        out: Folder for the log and the stored inspections.
        port: TCP port; if it is in use, a free port is taken instead.
    """
    out.mkdir(parents=True, exist_ok=True)
    port = port if port and _is_free(port) else _free_port()
    log_file = out / "service.log"
    environment = os.environ | {
        f"{PREFIX}MODELS": str(models),
        f"{PREFIX}DATA": str(out / "data"),
        f"{PREFIX}PORT": str(port),
        f"{PREFIX}HOST": "127.0.0.1",
        f"{PREFIX}SHUTDOWN_DELAY_S": "0",  # there is no load balancer that must notice first
    }
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("plumbline"), "serve"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=child_setup(),
        )
    service = RunningService(process, f"http://127.0.0.1:{port}", log_file)
    try:
        yield service
    finally:
        service.stop()


def inspect_samples(
    client: Client, product: str, samples: Sequence[Path], heatmaps: Path
) -> list[tuple[Path, Inspection, float]]:
    """Inspect every image and save its heatmap.

    Returns:
        For every image the file, the inspection, and the seconds that the request took.

    Raises:
        PlumblineClientError: An image could not be inspected.
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


def repeated(decided: Sequence[tuple[Path, DecisionName]]) -> Iterator[Path]:
    """Yield samples without end, with the share of defects of a line at work.

    Args:
        decided: The samples with their decisions, at least one.

    Yields:
        Those that passed in turn, and at each `RARE`-th place one of the others; all in turn if there is only one of
        these groups.
    """
    passed = [sample for sample, decision in decided if decision == "pass"]
    others = [sample for sample, decision in decided if decision != "pass"]
    usual, rare = cycle(passed or others), cycle(others or passed)
    if not passed or not others:
        yield from usual
    for number in count(1):
        yield next(usual) if number % RARE else next(rare)


def inspect_repeatedly(service: RunningService, product: str, samples: Iterator[Path], interval_s: float) -> None:
    """Inspect one sample after the other until the service ends.

    Args:
        service: The service.
        product: The product.
        samples: The images, without end.
        interval_s: Seconds between two images.
    """
    with Client(service.url, timeout_s=REQUEST_TIMEOUT_S) as client:
        for number, sample in enumerate(samples, 1):
            try:
                service.process.wait(interval_s)
                return
            except subprocess.TimeoutExpired:
                pass
            # The pages allow an engineer to change the recipe, to stop the product, or to create the first account.
            with suppress(PlumblineClientError):
                client.inspect(product, sample.read_bytes(), part_id=f"{sample.stem}-{number}", station="demo")


def result_table(results: Sequence[tuple[Path, Inspection, float]]) -> Table:
    """Return a table of decisions, with score, p-value, regions and time of each."""
    thresholds = results[0][1].thresholds
    guarantee = (
        f"good parts that fail: {thresholds.false_reject_bound.statement}"
        if thresholds.false_reject_bound is not None
        else "thresholds set by hand"
    )
    table = Table(
        title=f"{results[0][1].product}: fail above {thresholds.fail:.4g}, review above {thresholds.review:.4g}",
        caption=guarantee,
    )
    for heading in ("image", "decision"):
        table.add_column(heading, no_wrap=True)
    for heading in ("score", "p-value", "regions", "largest\nx,y,w,h"):
        table.add_column(heading, justify="right", no_wrap=True)
    # Wide enough for a busy machine, also in a terminal of 80 columns.
    table.add_column("ms", justify="right", no_wrap=True, min_width=4)
    for sample, inspection, seconds in results:
        largest = max(inspection.regions, key=lambda region: region.area_px, default=None)
        table.add_row(
            shown(sample.stem),
            f"[{COLOURS[inspection.decision]}]{inspection.decision}[/]",
            "" if inspection.score is None else f"{inspection.score:.4g}",
            "" if inspection.p_value is None else f"{inspection.p_value:.3f}",
            str(len(inspection.regions)),
            ",".join(map(str, largest.bbox)) if largest else "",
            f"{1000 * seconds:.0f}",
        )
    return table


def main(
    models: Annotated[Path, typer.Option(help="Folder of the model repository.")] = Path("models"),
    samples: Annotated[Path, typer.Option(help="Folder with JPEG or PNG images.")] = Path("docs/samples"),
    product: Annotated[str, typer.Option(help="Product that the images show.")] = "washer",
    out: Annotated[Path, typer.Option(help="Folder for heatmaps, log and stored inspections.")] = Path("demo-out"),
    port: Annotated[int, typer.Option(help="TCP port; if it is in use, a free port is taken.")] = 8000,
    keep: Annotated[
        bool | None,
        typer.Option(help="Keep the service running until Ctrl-C is pressed; by default in a terminal only."),
    ] = None,
    interval: Annotated[
        float, typer.Option(min=0.02, help="Seconds between two samples while the service keeps running.")
    ] = 2.0,
) -> None:
    """Start the service, inspect sample images, and show the results."""
    interrupt_on_termination()
    end_with_parent()
    keep = sys.stdin.isatty() and sys.stdout.isatty() if keep is None else keep
    images = sorted(path for path in samples.glob("*") if path.suffix.lower() in SUFFIXES)
    try:
        if not images:
            raise DemoFailure(f"there is no JPEG or PNG image in {samples}: give another folder with --samples.")
        OUT.print(f"Starting the service with the products of {shown(models)} ...")
        with running_service(models, out, port) as service:
            state = service.wait_until_ready()
            if product not in state.products:
                raise DemoFailure(
                    f"product {product!r} is not served: {', '.join(state.products)} can be given with --product."
                )
            with Client(service.url, timeout_s=REQUEST_TIMEOUT_S) as client:
                results = inspect_samples(client, product, images, out / "heatmaps")
            OUT.print(result_table(results))
            OUT.print(f"Heatmaps: {shown(out / 'heatmaps')}")
            OUT.print(f"Data:    {shown(out / 'data')}   (commands read it with --data)")
            _print_next_steps(service.url, product, images[0], keep=keep)
            if keep:
                samples_again = repeated([(sample, inspection.decision) for sample, inspection, _ in results])
                inspect_repeatedly(service, product, samples_again, interval)
    except (DemoFailure, PlumblineClientError) as error:
        for number, line in enumerate(str(error).splitlines()):  # it may end with lines of the log
            OUT.print(f"[red]The demo failed:[/] {shown(line)}" if number == 0 else shown(line))
        raise typer.Exit(FAILURE) from None
    except KeyboardInterrupt:
        OUT.print("Stopped.")


def _print_next_steps(url: str, product: str, image: Path, *, keep: bool) -> None:
    if not keep:
        OUT.print(
            "The service is stopped. `make demo KEEP=1` keeps it running, with its pages; `make serve` starts it "
            "without the demo."
        )
        return
    OUT.print(f"[bold]Pages:   {url}/[/]   (open it in a browser)")
    OUT.print(
        f"Parts:   the samples that passed are inspected in turn, and every {RARE}th part is one of the others, so "
        "that the share of defects is that of a line at work",
        soft_wrap=True,
    )
    for title, path in (("API", "/docs"), ("Health", "/health/ready"), ("Metrics", "/metrics")):
        OUT.print(f"{title + ':':<9}{url}{path}")
    OUT.print(
        "Try:     curl -H 'Content-Type: image/jpeg' --data-binary "
        f"@{shown(shlex.quote(str(image)))} {url}/v1/products/{product}/inspections",
        soft_wrap=True,
    )
    OUT.print("Press Ctrl-C to stop the service.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # The service sets this option too, so a port in TIME_WAIT counts as free.
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
