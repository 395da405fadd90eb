"""`plumbline-train fleet`."""

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.inspection.runtime.threads import cpu_quota
from training.cli.console import BAD_INPUT, INTERRUPTED, console, errors, one_line_errors, shown
from training.cli.options import DEVICE_HELP, Device, Groups, method_options
from training.cli.progress import ProgressBars
from training.config import FitConfig
from training.errors import InvalidOption, InvalidProductList

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from training.fleet.engine import Engine
    from training.fleet.entry import Entry

FAILED = 1
GIB = 2**30
MIN_GIB = 0.5
SHOWN = 4  # products in progress that the progress bar names


def fleet_command(
    products: Annotated[
        Path,
        typer.Option(
            help="CSV file with the columns product, data (folder of images) and, optionally, settings (TOML file); "
            "paths are relative to it."
        ),
    ],
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    out: Annotated[
        Path, typer.Option(help="Folder of results, checkpoints and reports; a second start continues there.")
    ] = Path("runs/fleet"),
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Products trained side by side on this machine.", show_default="as cores and memory allow"
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each training.")] = 1,
    memory: Annotated[
        float | None,
        typer.Option(
            min=MIN_GIB,
            help="Largest memory of each training, GiB; one that needs more is ended and counts as failed.",
            show_default="80 % of the machine's, divided by --processes",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Train on the Ray cluster at this address (auto, HOST:PORT or ray://HOST:PORT) instead of this "
            "machine; all folders must be the same on its machines.",
            show_default="this machine",
        ),
    ] = None,
    ray_gpus: Annotated[float, typer.Option(min=0, help="GPUs, or the part of one, of each training with --ray.")] = 0,
    method: Annotated[str, typer.Option(help="Method of products without settings.")] = FitConfig.method,
    input_size: Annotated[
        int | None,
        typer.Option(help="Side of the graph's input of these, pixels.", show_default="the method's default"),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Number of training steps of these.", show_default="the method's default")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the method of these, NAME=VALUE (JSON); repeatable.", metavar="NAME=VALUE"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Bundles within minutes for these: memory banks alone, no training steps.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = FitConfig.seed,
    held_out: Annotated[
        float, typer.Option(help="Share of good images held out for the threshold; at least 10 images.")
    ] = 0.2,
    groups: Annotated[
        Groups, typer.Option(help="What separates images of different days, lots or parts, as in `fit`.")
    ] = Groups.AUTO,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = Device.AUTO,
    evaluate: Annotated[
        bool,
        typer.Option(help="Measure bundles of products that have good and defective test images."),
    ] = True,
    allow_weak: Annotated[
        bool, typer.Option("--allow-weak", help="Also write bundles that hardly find synthetic anomalies.")
    ] = False,
) -> None:
    """Train many products side by side and write one report.

    Every line of the list is checked before the first training. A product that fails does not stop the others. A second
    start trains those that are missing, failed, or whose images or settings have changed. Several starts with the same
    --out share the products. Ctrl-C or SIGTERM ends the trainings; their checkpoints are kept. The exit code is 1 if a
    product failed.
    """
    with one_line_errors():
        from training.device import resolve_device
        from training.fleet.plan import FleetOptions, plan_jobs
        from training.fleet.run import PAGE, run_fleet
        from training.interruption import Interruption

        if ray is None:
            resolve_device(device.value)
        options = FleetOptions(
            out=out,
            models=models,
            threads=threads,
            common={"seed": seed, "device": device.value},
            settings={
                "method": method,
                "input_size": input_size,
                "iterations": iterations,
                "options": method_options(option or ()),
            },
            quick=quick,
            held_out_fraction=held_out,
            groups=groups.value,
            allow_weak=allow_weak,
            evaluate=evaluate,
        )
        try:
            jobs = plan_jobs(products, options)
        except InvalidProductList as error:
            _list_problems(products, error)
            raise typer.Exit(BAD_INPUT) from error
        engine = _engine(ray, ray_gpus, processes, threads, memory)
        stop = Interruption(second_ends=True)
        before = {number: signal.signal(number, stop.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with ProgressBars() as bars:
                display = _Display(bars, len(jobs))
                entries = run_fleet(jobs, engine, out, on_ended=display.on_ended, watch=display.watch, stop=stop)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    _conclude(entries, out / PAGE, stop.signal)


def _engine(ray: str | None, gpus: float, processes: int | None, threads: int, memory: float | None) -> "Engine":
    """Return what does the jobs, and print how."""
    from training.fleet.cluster import RayCluster
    from training.fleet.job import run_job
    from training.fleet.machine import MIN_PROCESS_BYTES, default_bound, default_processes, machine_memory
    from training.fleet.processes import LocalProcesses

    given = None if memory is None else int(memory * GIB)
    if ray is not None:
        if processes is not None:
            raise InvalidOption("--processes", processes, "not together with --ray, which decides by cores and memory")
        return RayCluster(ray, threads, given or MIN_PROCESS_BYTES, run_job, gpus)
    if gpus:
        raise InvalidOption("--ray-gpus", gpus, "together with --ray")
    available = machine_memory()
    number = processes or default_processes(cpu_quota(), threads, available, given)
    bound = given or default_bound(number, available)
    if bound < MIN_GIB * GIB:
        raise InvalidOption(
            "--processes", number, f"fewer: each has {bound / GIB:.1f} GiB, and needs at least {MIN_GIB}"
        )
    errors.print(f"{number} processes of {threads} threads, at most {bound / GIB:.1f} GiB each.", highlight=False)
    return LocalProcesses(number, bound, run_job, preload=("training.fleet.job",))


class _Display:
    """The progress of a fleet: one bar, the products in progress, and a line for each that has ended."""

    def __init__(self, bars: ProgressBars, total: int) -> None:
        self._bars = bars
        self._advance = bars.stage("products", total)
        self._total = total
        self._ended = 0
        self._now: dict[str, str] = {}

    def watch(self, product: str, text: str) -> None:
        """Show what is done for a product."""
        self._now.pop(product, None)
        if text:
            self._now[product] = text
        self._update()

    def on_ended(self, entry: "Entry", ended: int) -> None:
        """Show that a product has ended."""
        assert entry.result is not None
        self._ended = ended
        if entry.state == "unchanged":
            return
        how = entry.result.error or f"bundle {entry.result.version} in {entry.result.seconds:.0f} s"
        self._bars.note(f"{entry.job.product}: {'failed: ' if entry.result.error else ''}{how}")
        self._update()

    def _update(self) -> None:
        newest = list(self._now.items())[-SHOWN:]
        self._advance(self._ended, " · ".join(f"{shown(name)}: {text}" for name, text in sorted(newest)))


def _list_problems(products: Path, error: InvalidProductList) -> None:
    """Print what is wrong in a list, one problem per line."""
    errors.print(f"[red]error:[/] {shown(products)} is invalid, and nothing was trained:", soft_wrap=True)
    for reason in error.reasons:
        errors.print(f"  {shown(reason)}", soft_wrap=True)
    errors.print(error.expected, soft_wrap=True)


def _conclude(entries: "list[Entry]", report: Path, ended_by: int | None) -> None:
    """Print how many products there are of each state, and end with the exit code."""
    counts = {state: sum(entry.state == state for entry in entries) for state in ("trained", "unchanged", "failed")}
    console.print(
        f"{counts['trained']} trained, {counts['unchanged']} unchanged, {counts['failed']} failed, "
        f"{len(entries) - sum(counts.values())} not trained yet."
    )
    console.print(f"Report: {shown(report)}", soft_wrap=True)
    if ended_by is not None:
        errors.print("Interrupted. What is done is kept. To continue:")
        errors.print(f"  plumbline-train {shown(shlex.join(sys.argv[1:]))}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED if ended_by == signal.SIGINT else 128 + ended_by)
    if counts["failed"]:
        raise typer.Exit(FAILED)
