"""`plumbline-train worker`."""

import logging
import platform
import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from plumbline_client import Client, PlumblineClientError
from training.cli.console import BAD_INPUT, INTERRUPTED, console, errors, one_line_errors, shown
from training.cli.fit import default_threads
from training.cli.options import DEVICE_HELP, Device
from training.config import FitConfig

TIMEOUT_S = 300.0  # an activation includes the self-test of the bundle
FAILED = 1


def worker_command(
    url: Annotated[str, typer.Option(help="URL of the service, such as http://127.0.0.1:8000.")],
    work: Annotated[Path, typer.Option(help="Folder for images and checkpoints of jobs that are not done.")] = Path(
        "runs/jobs"
    ),
    models: Annotated[
        Path | None, typer.Option(help="Model repository that also gets a copy of every bundle.", show_default="none")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of this worker.", show_default="the host's name")] = None,
    once: Annotated[bool, typer.Option("--once", help="Do at most one job, then end.")] = False,
    method: Annotated[str, typer.Option(help="Anomaly detection method.")] = FitConfig.method,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the graph's input, pixels.", show_default="the method's default")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Steps of the whole training.", show_default="the method's default")
    ] = None,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = Device.AUTO,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads.", show_default="1 for the steps of small teachers, else the container's quota"
        ),
    ] = None,
    allow_weak: Annotated[
        bool,
        typer.Option("--allow-weak", help="Also upload bundles that hardly find synthetic anomalies."),
    ] = False,
) -> None:
    """Get training jobs from a service, train, and upload the bundles.

    The API key is read from the environment variable PLUMBLINE_API_KEY; it needs the scopes inspect and engineer.
    Ctrl-C or SIGTERM returns the job to the queue; its checkpoint is kept, and the work continues there.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, force=True)
    # One line per request would hide everything else.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with one_line_errors():
        from training.methods import fit_config
        from training.worker.job import JobOptions
        from training.worker.loop import run_worker
        from training.worker.stop import StopRequest

        quick = fit_config(method, quick=True, input_size=input_size, device=device.value)
        full = fit_config(method, iterations=iterations, input_size=input_size, device=device.value)
        options = JobOptions(
            work=work,
            configs={
                "quick": replace(quick, threads=threads or default_threads(quick.teachers, quick=True)),
                "full": replace(full, threads=threads or default_threads(full.teachers)),
            },
            allow_weak=allow_weak,
            models=models,
        )
        stop = StopRequest()
        stop.handle_signals()
        try:
            with Client(url, timeout_s=TIMEOUT_S) as client:
                console.print(f"Waiting for training jobs of {shown(url)}.", soft_wrap=True)
                outcome = run_worker(client, name or platform.node() or "worker", options, stop, once=once)
        except (PlumblineClientError, ValueError) as error:
            errors.print(f"[red]error:[/] {shown(error)}", soft_wrap=True)
            raise typer.Exit(BAD_INPUT) from error
    if stop.signal == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)
    if once and stop.signal is None:
        console.print(f"Outcome: {outcome or 'no job is queued'}.")
        raise typer.Exit(FAILED if outcome == "failed" else 0)
