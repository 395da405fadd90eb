"""`plumbline-train fit`."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.inspection.calibration import (
    DEFAULT_FAIL_ALPHA,
    bound_rate,
    describe_card,
    images_needed,
    percent,
    smallest_alpha,
    state_new_group_rate,
)
from service.inspection.runtime.threads import cpu_quota
from training.cli.console import console, one_line_errors, shown
from training.cli.interrupt import Interrupt
from training.cli.options import DEVICE_HELP, EXCLUDE_HELP, Augmentation, Device, Groups, method_options
from training.cli.progress import ProgressBars
from training.config import FitConfig
from training.errors import InvalidOption, WeakBundle

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from training.pipeline import Trained

STEP = 32  # tiles and overlaps are multiples of this, pixels


def fit_command(
    data: Annotated[Path, typer.Option(help="MVTec-layout folder, or a folder of good images.")],
    product: Annotated[str, typer.Option(help="Name of the product in the model repository.")],
    method: Annotated[str, typer.Option(help="Anomaly detection method.")] = FitConfig.method,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="Frozen network to distil; repeat for a method with two.", show_default="the method's default"
        ),
    ] = None,
    teacher_weights: Annotated[
        list[Path] | None,
        typer.Option(help="File of a teacher's weights, for machines without internet; repeat for each teacher."),
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the graph's input, pixels.", show_default="the method's default")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Number of training steps.", show_default="the method's default")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per step.", show_default="the method's default")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A first bundle within minutes: memory banks alone, no training steps, from 8 images on.",
        ),
    ] = False,
    quick_first: Annotated[
        bool,
        typer.Option(
            "--quick-first",
            help="Write the bundle of --quick first, and then train in full and write the next version. "
            "With --resume the first one is not made again.",
        ),
    ] = False,
    augment: Annotated[
        Augmentation, typer.Option(help="Augmentation of good images; rotate: for parts at any angle.")
    ] = Augmentation.NONE,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the method, NAME=VALUE (JSON); repeatable.", metavar="NAME=VALUE"),
    ] = None,
    tile: Annotated[int | None, typer.Option(help="Side of the tiles that large images are cut into, pixels.")] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="Overlap of the tiles, pixels; at least the size of a defect.", show_default="an eighth of the tile"
        ),
    ] = None,
    scale: Annotated[float, typer.Option(help="Factor on the image size before tiling.")] = FitConfig.scale,
    scaled_decoding: Annotated[
        bool,
        typer.Option(
            "--scaled-decoding",
            help="Decode large JPEG images at a fraction of their size, in training and in service; faster.",
        ),
    ] = False,
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = FitConfig.seed,
    held_out: Annotated[
        float, typer.Option(help="Share of good images held out for the threshold; at least 10 images.")
    ] = 0.2,
    groups: Annotated[
        Groups,
        typer.Option(
            help="What separates images of different days, lots or parts; whole groups are held out. auto: dates in "
            "names, else sub-folders, else a common prefix of file names."
        ),
    ] = Groups.AUTO,
    exclude: Annotated[list[str] | None, typer.Option(help=EXCLUDE_HELP, metavar="NAME")] = None,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = Device.AUTO,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads.", show_default="1 for the steps of small teachers, else the container's quota"
        ),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the checkpoint.", show_default="runs/PRODUCT")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint.")] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Time between checkpoints, seconds.")
    ] = FitConfig.checkpoint_seconds,
    evaluate: Annotated[
        bool, typer.Option(help="Also measure the bundle on the test split and write the figures to the manifest.")
    ] = False,
    allow_weak: Annotated[
        bool,
        typer.Option(
            "--allow-weak",
            help="Write the bundle even if the network hardly finds synthetic anomalies; recorded in the bundle.",
        ),
    ] = False,
) -> None:
    """Train on good images, export, verify, calibrate, and write the bundle."""
    run_dir = run_dir or Path("runs") / product
    with one_line_errors(), Interrupt(run_dir) as interrupt, ProgressBars() as bars:
        from training.exclusion import read_names
        from training.methods import fit_config
        from training.pipeline import Request, train

        if tile is None and overlap is not None:
            raise InvalidOption("--overlap", overlap, "together with --tile")
        if quick and iterations:
            raise InvalidOption("--iterations", iterations, "not together with --quick, which trains no step")
        if quick and quick_first:
            raise InvalidOption("--quick-first", "given", "without --quick, which ends after the first bundle")
        configure = partial(
            fit_config,
            method,
            teachers=tuple(teacher) if teacher else None,
            teacher_weights=tuple(teacher_weights or ()),
            input_size=tile or input_size,
            overlap=default_overlap(tile) if overlap is None else overlap,
            scale=scale,
            scaled_decoding=scaled_decoding,
            batch_size=batch_size,
            augment=augment.value,
            seed=seed,
            device=device.value,
            checkpoint_seconds=checkpoint_seconds,
            options=method_options(option or ()),
        )
        config = configure(quick=quick, iterations=iterations)
        request = Request(
            data=data,
            product=product,
            models=models,
            run_dir=run_dir,
            config=replace(config, threads=threads or default_threads(config.teachers, quick=quick)),
            held_out_fraction=held_out,
            groups=groups.value,
            allow_weak=allow_weak,
            resume=resume,
            evaluate=evaluate,
            exclude=read_names(exclude or ()),
        )
        if quick_first and not resume:
            first = configure(quick=True)
            first = replace(first, threads=threads or default_threads(first.teachers, quick=True))
            try:
                first_request = replace(request, config=first, precedes_full=True)
                bundle = train(first_request, bars, interrupt.should_stop).bundle
                bars.note(f"First bundle: {bundle.path}. The training continues and writes the next version.")
            except WeakBundle as weak:
                bars.note(f"There is no first bundle. {weak.detail} The training continues.")
            request = replace(request, checked=True)
        trained = train(request, bars, interrupt.should_stop)
    _report(trained, models)


def default_overlap(tile: int | None) -> int | None:
    """Return the default overlap of tiles, pixels.

    It is an eighth of the tile in steps of 32 pixels, and at least one step if half a tile is larger than that; None
    without tiles.
    """
    return None if tile is None else max(tile // 8 // STEP * STEP, STEP if tile > 2 * STEP else 0)


def default_threads(teachers: Sequence[str], *, quick: bool = False) -> int:
    """Return the default number of CPU threads for these teachers.

    Without training steps all work comes in large pieces, which several threads share well. The small teachers' steps
    are too short to be divided. On two cores a second thread makes a step a third faster on an idle machine, and
    several times slower as soon as another process runs (docs/benchmarks.md).
    """
    return 1 if not quick and all(name.startswith("efficientnet_lite") for name in teachers) else cpu_quota()


def _report(trained: "Trained", models: Path) -> None:
    """Print the bundle's path, its guarantee, and the next commands."""
    from training.evaluate import summary_table
    from training.selected import describe_selected

    bundle, data = trained.bundle, trained.data
    n = len(bundle.card.scores)
    alpha = max(DEFAULT_FAIL_ALPHA, smallest_alpha(n))
    sanity = bundle.card.sanity
    sessions = "" if data.grouped_by == "none" else f" from {len(data.groups)} sessions ({data.grouped_by})"
    if trained.evaluation is not None:
        console.print(summary_table(trained.evaluation))
    if data.excluded:
        console.print(f"Note: good images left out with --exclude: {len(data.excluded)}.")
    if data.duplicates:
        console.print(f"Note: duplicate images, not used: {len(data.duplicates)}.")
    lines = {
        "Bundle": str(bundle.path),
        "Trained on": f"{len(data.fitted)} good images; map adjusted on {len(data.reference)}; {n} held out{sessions}",
        "Parity": f"relative difference to the trained network {bundle.manifest.parity.measured:.1e}, "
        f"tolerance {bundle.manifest.parity.tolerance:.0e}",
        "Certified": f"good parts that fail: {bound_rate(n, alpha)}, for images like the held-out ones",
    }
    if (new_groups := state_new_group_rate(bundle.card, alpha)) is not None:
        lines["New groups"] = f"good parts that fail: {new_groups}"
    if alpha > DEFAULT_FAIL_ALPHA:
        needed = images_needed(DEFAULT_FAIL_ALPHA)
        lines["To certify"] = (
            f"{percent(DEFAULT_FAIL_ALPHA)} on average instead, hold out {needed} good images (now {n})"
        )
    if selected := describe_selected(bundle.manifest.training.selected):
        lines["Selected"] = "; ".join(f"{name}: {value}" for name, value in selected.items())
    if sanity is not None:
        lines["Sanity"] = (
            f"AUROC on synthetic anomalies: images {sanity.image_auroc:.2f}, pixels {sanity.pixel_auroc:.2f} "
            f"({sanity.images} good images, {sanity.synthetic} with an anomaly)"
        )
    name = bundle.manifest.product
    lines["Serve"] = f"plumbline serve --models {shlex.quote(str(models))}"
    lines["Inspect"] = (
        f"curl -H 'Content-Type: image/jpeg' --data-binary @part.jpg"
        f" http://127.0.0.1:8000/v1/products/{name}/inspections"
    )
    if data.test and trained.evaluation is None:
        lines["Evaluate"] = (
            f"plumbline-train evaluate --bundle {shlex.quote(str(bundle.path))} --data {shlex.quote(str(data.root))}"
        )
    notes = [f"Weak bundle: {reason}." for reason in bundle.manifest.training.weak] + describe_card(bundle.card)
    for note in notes:
        console.print(f"[yellow]Note:[/] {shown(note)}", soft_wrap=True)
    for title, text in lines.items():
        console.print(f"[bold]{title:<12}[/] {shown(text)}", soft_wrap=True)
