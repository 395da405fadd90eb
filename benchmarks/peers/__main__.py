"""Train and measure anomalib's PatchCore, PaDiM and STFPM with Plumbline's teacher, images and metrics.

    python -m benchmarks.peers --data ROOT --categories bottle screw transistor --out DIR

ROOT contains folders in the MVTec layout. anomalib is installed into a separate environment first (see `environment`).
EfficientAD-S takes part if its teacher's file and ImageNet images are given. Every result is a file in DIR. Existing
results are not measured again, so an interrupted run can be resumed. The table is written to `peers.md` and
`peers.json`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.marked_section import write_section
from benchmarks.peers.environment import ANOMALIB, ROOT, ready_python
from benchmarks.peers.results import PEERS, OtherSettings, pending, read_results, write_table
from service.inspection.runtime.threads import cpu_quota
from training.cli.main import spread_lists

console = Console()


def main(
    data: Annotated[Path, typer.Option(help="Folder that contains folders in the MVTec layout.")],
    categories: Annotated[list[str], typer.Option(help="Names of one or more of these folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the results and the table.")],
    peer: Annotated[list[str] | None, typer.Option(help="Measure only this peer; can be repeated.")] = None,
    teacher: Annotated[str, typer.Option(help="Name of an EfficientNet-Lite teacher.")] = ("efficientnet_lite0"),
    input_size: Annotated[int, typer.Option(help="Side length of the input in pixels; a multiple of 32.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; it also selects the held-out good images.")] = 0,
    patchcore_coreset: Annotated[float, typer.Option(help="Share of patches in the coreset.")] = 0.05,
    stfpm_steps: Annotated[
        int, typer.Option(min=1, help="Training steps with 32 images each, if the loss does not converge before.")
    ] = 2000,
    efficientad_steps: Annotated[int, typer.Option(min=1, help="Training steps with one image each.")] = 70000,
    efficientad_teacher: Annotated[
        Path | None, typer.Option(exists=True, help="anomalib's pretrained_teacher_small.pth.")
    ] = None,
    efficientad_imagenet: Annotated[
        Path | None,
        typer.Option(exists=True, help="Folder of ImageNet images in folders by class, as Imagenette's train."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads for training.", show_default="the container's quota")
    ] = None,
    environment: Annotated[Path, typer.Option(help="Environment for anomalib; created if missing.")] = (
        ROOT / "runs" / "peers-environment"
    ),
    write: Annotated[str | None, typer.Option(help="Write the table into this section of docs/benchmarks.md.")] = None,
) -> None:
    """Train and measure the peers, and write the table."""
    has_teacher = efficientad_teacher is not None and efficientad_imagenet is not None
    peers = peer or [name for name in PEERS if name != "efficientad" or has_teacher]
    if "efficientad" in peers and not has_teacher:
        raise typer.BadParameter("pass --efficientad-teacher and --efficientad-imagenet", param_hint="--peer")
    if "efficientad" not in peers:
        console.print("efficientad is left out: it needs --efficientad-teacher and --efficientad-imagenet")
    for name in categories:
        if not (data / name).is_dir():
            raise typer.BadParameter(f"there is no folder {data / name}", param_hint="--categories")
    for name in peers:
        if name not in PEERS:
            raise typer.BadParameter(f"there is no peer {name!r}; choose from {', '.join(PEERS)}", param_hint="--peer")
    settings: dict[str, Any] = {
        "anomalib": ANOMALIB,
        "teacher": teacher,
        "input_size": input_size,
        "seed": seed,
        "patchcore_coreset": patchcore_coreset,
        "stfpm_steps": stfpm_steps,
        "efficientad_steps": efficientad_steps,
        "efficientad_teacher": efficientad_teacher and str(efficientad_teacher.absolute()),
        "efficientad_imagenet": efficientad_imagenet and str(efficientad_imagenet.absolute()),
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
            # Some uses of OpenMP ignore torch.set_num_threads and would use all cores of the host.
            subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": str(count)})
    finally:
        # Also after an interruption, with the results so far.
        table = write_table(out, read_results(out, peers, categories))
        console.print(table, markup=False)
    if write:
        write_section(write, table)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(args=spread_lists(sys.argv[1:]))
