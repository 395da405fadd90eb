"""`plumbline-train compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from training.cli.console import console, one_line_errors, shown
from training.cli.interrupt import Interrupt
from training.cli.options import DEVICE_HELP, Device, method_options
from training.cli.progress import ProgressBars
from training.config import FitConfig
from training.errors import InvalidOption


def compare_command(
    data: Annotated[Path, typer.Option(help="Folder of MVTec-layout folders, one per category.")],
    out: Annotated[Path, typer.Option(help="Folder of results, bundles and tables; a second start continues there.")],
    methods: Annotated[list[str] | None, typer.Option(help="Methods, one or more.", show_default="all")] = None,
    teachers: Annotated[
        list[str] | None,
        typer.Option(
            help="Teachers, one or more; each is compared. a+b: two teachers of one method.",
            show_default="the method's default",
        ),
    ] = None,
    teacher_weights: Annotated[
        list[Path] | None,
        typer.Option(help="Files of the teachers' weights, for machines without internet, in the order of --teachers."),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="Settings files instead of --methods, one or more; each is a column.", metavar="FILE"),
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option(min=0, help="Seeds, one or more.", show_default="0")] = None,
    categories: Annotated[list[str] | None, typer.Option(help="Categories, one or more.", show_default="all")] = None,
    rotate: Annotated[list[str] | None, typer.Option(help="Categories with parts at any angle.")] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the graph's input, pixels.", show_default="the method's default")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Number of training steps.", show_default="the method's default")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the methods, NAME=VALUE (JSON); repeatable.", metavar="NAME=VALUE"),
    ] = None,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = Device.AUTO,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of this process.")] = 1,
) -> None:
    """Train and evaluate several methods and write one table as Markdown, JSON and HTML.

    An interrupted comparison continues when it is started again. Several processes with the same --out share the
    work: for small networks, one process per core with --threads 1 is fastest.
    """
    with one_line_errors(), Interrupt(None) as interrupt:
        from training.comparison.cells import make_cells
        from training.comparison.run import categories_in, compare
        from training.config_file import read_settings
        from training.device import resolve_device
        from training.fit import untrained
        from training.methods import METHODS, fit_config

        resolve_device(device.value)
        names = categories_in(data, categories or ())
        chosen: dict[str, Any] = {
            "teacher_weights": tuple(teacher_weights) if teacher_weights else None,
            "input_size": input_size,
            "iterations": iterations,
            "device": device.value,
            "threads": threads,
        }
        if config:
            _check_alone(config, methods, teachers, option)
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
            untrained(each)  # wrong options and missing weights are reported before the first run, not hours later
        cells = make_cells(names, configs, seeds or (0,), rotate or ())
        with ProgressBars() as bars:
            compare(data, cells, out, lambda cell: bars.titled(cell.name), interrupt.should_stop)
    console.print((out / "comparison.md").read_text(), soft_wrap=True)
    console.print(f"Also: {shown(out / 'comparison.html')}, comparison.md and comparison.json", soft_wrap=True)


def _check_alone(files: Sequence[Path], *options: Sequence[str] | None) -> None:
    """Check that settings files are not combined with --methods, --teachers or --option.

    Raises:
        InvalidOption: One of these options is given as well, or two files have the same name.
    """
    given = " ".join(map(str, files))
    if any(options):
        raise InvalidOption("--config", given, "without --methods, --teachers and --option")
    if len({file.stem for file in files}) < len(files):
        raise InvalidOption("--config", given, "files with different names, because the columns have these names")
