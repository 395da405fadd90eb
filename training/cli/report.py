"""`plumbline-train report`."""

from pathlib import Path
from typing import Annotated

import typer

from training.cli.console import console, one_line_errors, shown
from training.cli.options import BUNDLE_HELP, find_bundle, prepare_output
from training.cli.progress import ProgressBars
from training.errors import DataFolderMissing


def report_command(
    bundle: Annotated[Path, typer.Argument(help=BUNDLE_HELP)],
    data: Annotated[
        Path | None,
        typer.Option(
            help="MVTec-layout folder with test/good and test/<defect>, to measure the bundle on; also the folder in "
            "which the good images of the training are looked up.",
            show_default="no test images",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The HTML file.", show_default="runs/PRODUCT/report-VERSION.html")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the training run, with its record.", show_default="runs/PRODUCT")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="the container's quota")
    ] = None,
) -> None:
    """Write one HTML file about a bundle: data, training, figures, curves, images, guarantee and parity.

    The file needs no other file, no internet and no scripts. Without --data it contains what the bundle and the run
    folder record; what is missing is listed.
    """
    with one_line_errors(), ProgressBars() as bars:
        from service.inspection.inspector import Inspector
        from training.dataset import scan_test
        from training.evaluate import evaluate
        from training.pipeline import inspector_options
        from training.report.origin import gather_origin
        from training.report.page import NO_TEST_SET, no_test_split, write_report

        folder = find_bundle("BUNDLE", bundle)
        if data is not None and not data.is_dir():
            raise DataFolderMissing(data)
        images = scan_test(data) if data is not None and (data / "test").is_dir() else []
        inspector = Inspector.load(folder, inspector_options(threads))
        try:
            product, version = inspector.bundle.manifest.product, inspector.bundle.version
            runs = run_dir or Path("runs") / product
            path = output or Path("runs") / product / f"report-{version}.html"
            prepare_output(path)  # before the measurement, which may take long
            origin = gather_origin(inspector.bundle, runs, data, bars.counter("look up the good images"))
            evaluation = None
            if data is not None and images:
                advance = bars.stage("evaluate", len(images))
                evaluation = evaluate(inspector, images, lambda done: advance(done, ""), data=data)
            reason = NO_TEST_SET if data is None else no_test_split(data)
            write_report(evaluation, inspector, path, origin, unmeasured=reason, stage=bars.stage)
        finally:
            inspector.close()
    for note in (*([] if evaluation else [reason]), *origin.missing):
        console.print(f"[yellow]Note:[/] {shown(note)}", soft_wrap=True)
    console.print(f"Report: {shown(path)}", soft_wrap=True)
