"""`plumbline-train evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from training.cli.console import console, one_line_errors, shown
from training.cli.options import BUNDLE_HELP, find_bundle
from training.cli.progress import ProgressBars


def evaluate_command(
    bundle: Annotated[Path, typer.Option(help=BUNDLE_HELP)],
    data: Annotated[Path, typer.Option(help="MVTec-layout folder with test/good and test/<defect>.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report.", show_default="runs/PRODUCT/evaluation-VERSION")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="the container's quota")
    ] = None,
) -> None:
    """Measure a bundle on labelled test images: table, evaluation.json, report.html."""
    with one_line_errors(), ProgressBars() as bars:
        from service.inspection.inspector import Inspector
        from training.dataset import scan_test
        from training.evaluate import evaluate, summary_table
        from training.pipeline import inspector_options
        from training.report.origin import gather_origin
        from training.report.page import write_report

        images = scan_test(data)
        inspector = Inspector.load(find_bundle("--bundle", bundle), inspector_options(threads))
        try:
            advance = bars.stage("evaluate", len(images))
            evaluation = evaluate(inspector, images, lambda done: advance(done, ""), data=data)
            origin = gather_origin(inspector.bundle, Path("runs") / evaluation.product)
            folder = out or Path("runs") / evaluation.product / f"evaluation-{evaluation.version}"
            folder.mkdir(parents=True, exist_ok=True)
            evaluation.write_json(folder / "evaluation.json")
            write_report(evaluation, inspector, folder / "report.html", origin, stage=bars.stage)
        finally:
            inspector.close()
    console.print(summary_table(evaluation))
    for note in evaluation.notes:
        console.print(f"Note: {shown(note)}.")
    console.print(f"Report: {shown(folder / 'report.html')}", soft_wrap=True)
