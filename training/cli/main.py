"""`plumbline-train`: from a folder of good images to a bundle, and how good the bundle is."""

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from service.errors import PlumblineError
from service.inspection.calibration import DEFAULT_FAIL_ALPHA, smallest_alpha
from service.inspection.runtime.threads import cpu_quota
from training.config import FitConfig
from training.errors import InvalidOption

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from training.pipeline import Trained


class Augmentation(StrEnum):
    """`FitConfig.augment` as the command line offers it."""

    NONE = "none"
    MILD = "mild"
    ROTATE = "rotate"


BAD_INPUT = 2
# Options that take several values.
LISTS = ("--methods", "--teachers", "--config", "--seeds", "--categories", "--rotate")
INTERRUPTED = 130

app = typer.Typer(
    help="Learn a product from images of good parts and write a bundle that `plumbline serve` serves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def spread_lists(arguments: Sequence[str]) -> list[str]:
    """Takes `--seeds 0 1 2` for `--seeds 0 --seeds 1 --seeds 2`, as people write it."""
    spread: list[str] = []
    current = ""
    for argument in arguments:
        if argument.startswith("-"):
            current = argument if argument in LISTS else ""
        elif current and spread[-1] != current:
            spread.append(current)
        spread.append(argument)
    return spread


def main() -> None:
    """The entry point: `app` with arguments as people write them."""
    app(args=spread_lists(sys.argv[1:]))


@app.callback()
def configure_libraries() -> None:
    """Set the process-wide options of the image libraries before any command runs."""
    from service.inspection.runtime.configure import configure

    configure()


@app.command("fit")
def fit_command(
    data: Annotated[Path, typer.Option(help="MVTec-layout folder, or a folder of good images.")],
    product: Annotated[str, typer.Option(help="Name of the product in the model repository.")],
    method: Annotated[str, typer.Option(help="What learns.")] = FitConfig.method,
    teacher: Annotated[
        list[str] | None,
        typer.Option(help="A frozen network that it learns from; once for each.", show_default="the method's own"),
    ] = None,
    teacher_weights: Annotated[
        list[Path] | None,
        typer.Option(help="The teacher's weights, for machines without internet; once for each teacher."),
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the graph's input, pixels.", show_default="the method's own")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Training steps.", show_default="the method's own")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.", show_default="the method's own")] = None,
    augment: Annotated[
        Augmentation, typer.Option(help="How good parts may vary beyond the images: rotate for any angle.")
    ] = Augmentation.NONE,
    option: Annotated[
        list[str] | None,
        typer.Option(help="A knob of the method's own, NAME=VALUE (JSON); may be given again.", metavar="NAME=VALUE"),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(help="For images far larger than the network: cut them into tiles of this side, pixels."),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(help="Pixels that tiles share; the largest defect.", show_default="an eighth of the tile"),
    ] = None,
    scale: Annotated[float, typer.Option(help="Make images smaller by this before they are cut.")] = FitConfig.scale,
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is random.")] = FitConfig.seed,
    held_out: Annotated[float, typer.Option(help="Share of good images kept for the threshold, at least 10.")] = 0.2,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads.", show_default="1 for the small teachers, else the container's quota"),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the checkpoint lives.", show_default="runs/PRODUCT")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Time between checkpoints, seconds.")
    ] = FitConfig.checkpoint_seconds,
    evaluate: Annotated[
        bool, typer.Option(help="Also measure on the test split and write the figures into the manifest.")
    ] = False,
) -> None:
    """Train on good images, export, check, calibrate, and write the bundle."""
    run_dir = run_dir or Path("runs") / product
    with _one_line_errors(), _Interrupt(run_dir) as interrupt, _Bars() as bars:
        from training.fit import load_teachers
        from training.methods import build_method, fit_config
        from training.pipeline import Request, train

        if tile is None and overlap is not None:
            raise InvalidOption("--overlap", overlap, "--tile beside it")
        config = fit_config(
            method,
            teachers=tuple(teacher) if teacher else None,
            teacher_weights=tuple(teacher_weights or ()),
            input_size=tile or input_size,
            overlap=default_overlap(tile) if overlap is None else overlap,
            scale=scale,
            iterations=iterations,
            batch_size=batch_size,
            augment=augment.value,
            seed=seed,
            checkpoint_seconds=checkpoint_seconds,
            options=method_options(option or ()),
        )
        config = replace(config, threads=threads or default_threads(config.teachers))
        build_method(config, load_teachers(config))  # what cannot be trained is said before images are read
        bars.between_steps = interrupt.between_steps
        trained = train(
            Request(
                data=data,
                product=product,
                models=models,
                run_dir=run_dir,
                config=config,
                held_out_fraction=held_out,
                resume=resume,
                evaluate=evaluate,
            ),
            bars,
        )
    _report(trained, models)


@app.command("evaluate")
def evaluate_command(
    bundle: Annotated[Path, typer.Option(help="models/PRODUCT/VERSION, or models/PRODUCT for its newest.")],
    data: Annotated[Path, typer.Option(help="MVTec-layout folder with test/good and test/<defect>.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the report goes.", show_default="runs/PRODUCT/evaluation-VERSION")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="the container's quota")
    ] = None,
) -> None:
    """Measure a bundle on images whose truth is known: table, evaluation.json, report.html."""
    with _one_line_errors(), _Bars() as bars:
        from service.bundle.bundle import newest_bundle
        from service.bundle.manifest import MANIFEST
        from service.inspection.inspector import Inspector
        from training.dataset import scan_test
        from training.evaluate import evaluate, summary_table
        from training.pipeline import inspector_options
        from training.report import write_report

        images = scan_test(data)
        path = bundle if (bundle / MANIFEST).is_file() else bundle.is_dir() and newest_bundle(bundle)
        if not path:
            raise InvalidOption("--bundle", bundle, "a folder models/PRODUCT/VERSION with a manifest.json")
        inspector = Inspector.load(path, inspector_options(threads))
        try:
            advance = bars.stage("evaluate", len(images))
            evaluation = evaluate(inspector, images, lambda done: advance(done, ""))
            folder = out or Path("runs") / evaluation.product / f"evaluation-{evaluation.version}"
            folder.mkdir(parents=True, exist_ok=True)
            evaluation.write_json(folder / "evaluation.json")
            write_report(evaluation, inspector, folder / "report.html")
        finally:
            inspector.close()
    console.print(summary_table(evaluation))
    for note in evaluation.notes:
        console.print(f"Note: {escape(note)}.")
    console.print(f"Report: {escape(str(folder / 'report.html'))}", soft_wrap=True)


@app.command("compare")
def compare_command(
    data: Annotated[Path, typer.Option(help="Folder of MVTec-layout folders, one a category.")],
    out: Annotated[Path, typer.Option(help="Where results, bundles and tables go; a second start goes on there.")],
    methods: Annotated[list[str] | None, typer.Option(help="Methods, one or more.", show_default="all")] = None,
    teachers: Annotated[
        list[str] | None,
        typer.Option(
            help="Teachers; a+b for two at once; more than one: each is tried.", show_default="a method's own"
        ),
    ] = None,
    teacher_weights: Annotated[
        list[Path] | None, typer.Option(help="Weights for machines without internet, in the order of one --teachers.")
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="Settings files instead of --methods, one or more; columns are named so.", metavar="FILE"),
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option(min=0, help="Seeds.", show_default="0")] = None,
    categories: Annotated[list[str] | None, typer.Option(help="Only these folders.", show_default="all")] = None,
    rotate: Annotated[list[str] | None, typer.Option(help="Categories whose parts lie at any angle.")] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the graph's input, pixels.", show_default="the method's own")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Training steps.", show_default="the method's own")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="A knob of the methods' own, NAME=VALUE (JSON).", metavar="NAME=VALUE")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of this process.")] = 1,
) -> None:
    """Train and measure methods side by side: one table as Markdown, JSON and HTML.

    Interrupted, it goes on where it stopped. Started several times at once on the same --out, the processes share
    the work: one for each core, with --threads 1, is the fastest for small networks.
    """
    with _one_line_errors(), _Interrupt(None) as interrupt:
        from training.comparison.cells import make_cells
        from training.comparison.run import categories_in, compare
        from training.config_file import read_settings
        from training.fit import load_teachers
        from training.methods import METHODS, build_method, fit_config

        names = categories_in(data, categories or ())
        chosen = {
            "teacher_weights": tuple(teacher_weights) if teacher_weights else None,
            "input_size": input_size,
            "iterations": iterations,
            "threads": threads,
        }
        if config:
            _no_others(config, methods, teachers, option)
            configs: dict[str, FitConfig] | list[FitConfig] = {f.stem: read_settings(f, **chosen) for f in config}
        else:
            configs = [
                fit_config(
                    method,
                    teachers=tuple(choice.split("+")) if choice else None,
                    options=method_options(option or ()),
                    **chosen,
                )
                for method in methods or METHODS
                for choice in teachers or (None,)
            ]
        for each in configs.values() if isinstance(configs, dict) else configs:
            build_method(each, load_teachers(each))  # a wrong one is refused now, not when its turn comes
        cells = make_cells(names, configs, seeds or (0,), rotate or ())
        with _Bars() as bars:
            bars.between_steps = interrupt.between_steps
            compare(data, cells, out, lambda cell: bars.titled(cell.name))
    console.print((out / "comparison.md").read_text(), soft_wrap=True)
    console.print(f"Also: {escape(str(out / 'comparison.html'))}, comparison.md and comparison.json", soft_wrap=True)


def _no_others(files: Sequence[Path], *options: Sequence[str] | None) -> None:
    """A settings file says all that --methods, --teachers and --option say.

    Raises:
        InvalidOption: one of these is given as well, or two files have the same name.
    """
    if any(options):
        raise InvalidOption("--config", " ".join(map(str, files)), "no --methods, --teachers or --option beside it")
    if len({file.stem for file in files}) < len(files):
        raise InvalidOption("--config", " ".join(map(str, files)), "files of different names, for the columns")


class _Bars:
    """One progress bar for every stage."""

    def __init__(self) -> None:
        self.between_steps: Callable[[bool], None] = lambda _more: None
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=errors,
        )

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def titled(self, name: str) -> "_Bars":
        """The same bars for another piece of work, announced."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        errors.print(f"[bold]{escape(name)}[/]")
        return self

    def stage(self, title: str, total: int) -> Callable[[int, str], None]:
        task = self._progress.add_task(title, total=total, note="")
        shown = 0

        def advance(done: int, note: str) -> None:
            nonlocal shown
            self._progress.update(task, completed=done, note=note)
            # A bar is drawn on terminals only; a log gets a line for every tenth.
            if not errors.is_terminal and 10 * done // total > shown:
                shown = 10 * done // total
                errors.print(f"{title} {done}/{total} {note}")
            if title == "train":
                self.between_steps(done < total)

        return advance


def method_options(given: Sequence[str]) -> dict[str, Any]:
    """The method's own knobs from `NAME=VALUE`; a value that is no JSON is taken as text.

    Raises:
        InvalidOption: there is no equals sign.
    """
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidOption("--option", repr(text), "NAME=VALUE, for instance width=4")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def default_overlap(tile: int | None) -> int | None:
    """An eighth of a tile in whole steps of 32 pixels, and at least one step where half a tile has room for it; None
    without tiles.
    """
    return None if tile is None else max(tile // 8 // 32 * 32, 32 if tile > 64 else 0)


def default_threads(teachers: Sequence[str]) -> int:
    """Threads that train fastest on a machine that is not quite alone.

    The small teachers' steps are too short to be shared: measured on two cores, a second thread makes a step a third
    faster when nothing else runs, and several times slower as soon as something does (docs/benchmarks.md).
    """
    return 1 if all(name.startswith("efficientnet_lite") for name in teachers) else cpu_quota()


class _Interrupt:
    """Ctrl-C stops between two training steps, where a checkpoint is exact, and at once everywhere else."""

    def __init__(self, run_dir: Path | None) -> None:
        self._run_dir = run_dir  # None where a command goes on by itself when it is started again
        self._training = self._asked = False

    def between_steps(self, more: bool) -> None:
        self._training = more
        if self._asked:
            raise KeyboardInterrupt

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._training:
            raise KeyboardInterrupt
        self._asked = True

    def __enter__(self) -> "_Interrupt":
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if kind is not KeyboardInterrupt:
            return
        from training.fit import CHECKPOINT_NAME

        if self._run_dir is None:
            errors.print("Interrupted. What is finished stays; go on with")
            errors.print(f"  plumbline-train {escape(shlex.join(sys.argv[1:]))}", soft_wrap=True)
        elif (self._run_dir / CHECKPOINT_NAME).exists():
            arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
            errors.print("Interrupted. What was learnt so far is kept; go on with")
            errors.print(f"  plumbline-train {escape(shlex.join(arguments))} --resume", soft_wrap=True)
        else:
            errors.print("Interrupted before training began; nothing was written.")
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What a person can put right is said in one line, without a traceback."""
    try:
        yield
    except PlumblineError as error:
        reason = error.detail
    except OSError as error:  # a full disk, a folder that may not be written
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        return
    errors.print(f"[red]error:[/] {escape(' '.join(reason.split()))}", soft_wrap=True)
    raise typer.Exit(BAD_INPUT)


def _report(trained: "Trained", models: Path) -> None:
    """Where the bundle is, what it can promise, what to do next."""
    from training.evaluate import summary_table

    bundle, data = trained.bundle, trained.data
    n = len(bundle.card.scores)
    alpha = max(DEFAULT_FAIL_ALPHA, smallest_alpha(n))
    sessions = "" if data.grouped_by == "none" else f" from {len(data.groups)} sessions ({data.grouped_by})"
    if trained.evaluation is not None:
        console.print(summary_table(trained.evaluation))
    if data.duplicates:
        console.print(f"Note: {len(data.duplicates)} copies of other images were left out.")
    lines = {
        "Bundle": str(bundle.path),
        "Learnt from": f"{len(data.train)} good images; {n} more held out{sessions}",
        "Parity": f"{bundle.manifest.parity.measured:.1e} from the trained network (relative), "
        f"{bundle.manifest.parity.tolerance:.0e} allowed",
        "Certified": f"at most {100 * alpha:.2g} % of good parts will fail, taken like the held-out ones",
    }
    if alpha > DEFAULT_FAIL_ALPHA:
        needed = round(1 / DEFAULT_FAIL_ALPHA) - 1
        lines["To certify"] = f"{100 * DEFAULT_FAIL_ALPHA:g} % instead, hold out {needed} good images (now {n})"
    name = bundle.manifest.product
    lines["Serve it"] = f"plumbline serve --models {shlex.quote(str(models))}"
    lines["Try it"] = (
        f"curl -H 'Content-Type: image/jpeg' --data-binary @part.jpg"
        f" http://127.0.0.1:8000/v1/products/{name}/inspections"
    )
    if data.test and trained.evaluation is None:
        lines["Measure it"] = (
            f"plumbline-train evaluate --bundle {shlex.quote(str(bundle.path))} --data {shlex.quote(str(data.root))}"
        )
    for title, text in lines.items():
        console.print(f"[bold]{title:<12}[/] {escape(text)}", soft_wrap=True)


if __name__ == "__main__":
    main()
