"""`plumbline inspect`: inspect image files without a server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.console import ERR, FAILURE, refuse, status_line
from service.cli.options import Data, Models, Provider, load_settings, require_models
from service.errors import PlumblineError

if TYPE_CHECKING:
    from service.cli.file_inspection import FileResult


def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders that are searched for image files.")],
    product: Annotated[str, typer.Option(help="Product that the images show.")],
    models: Models = None,
    data: Data = None,
    provider: Provider = None,
    save_heatmap: Annotated[Path | None, typer.Option(help="Folder to which heatmaps are written.")] = None,
    legend: Annotated[
        bool, typer.Option("--legend", help="Draw score, thresholds and colour scale below each heatmap.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="File to which the results are written; .json or .csv.")] = None,
) -> None:
    """Inspect image files without a server, with the bundle and the recipe that the service would use.

    Exit code: 0 all images pass; 1 at least one image fails, needs review, is invalid or cannot be inspected; 2 wrong
    usage.
    """
    from service.cli.file_inspection import HeatmapOptions, find_images, inspect_files, write_results
    from service.cli.offline import known_products, open_deployed
    from service.deployment.configuration import bundle_loader
    from service.deployment.errors import UnknownProduct
    from service.inspection.image_files import IMAGE_SUFFIXES, count_other_files
    from service.inspection.runtime.configure import configure

    configure()
    settings = load_settings(models=models, data=data, provider=provider)
    if output is not None and output.suffix not in {".json", ".csv"}:
        refuse(f"The results file {output} must end in .json or .csv.")
    if output is not None and not output.absolute().parent.is_dir():
        refuse(f"The folder of the results file {output} does not exist. Create it, or name another file.")
    require_models(settings)
    if legend and save_heatmap is None:
        refuse("--legend needs --save-heatmap, the folder to which heatmaps are written.")
    known = known_products(settings)
    if product not in known:
        refuse(UnknownProduct(product, known, None if settings.bundle_store else settings.models).detail)
    try:
        files = find_images(paths)
        passed_over = sum(count_other_files(path) for path in paths if path.is_dir())
    except FileNotFoundError as error:
        refuse(f"{error.args[0]} does not exist.")
    except OSError as error:
        refuse(f"{error.filename} cannot be read: {error.strerror}.")
    try:
        loader = bundle_loader(settings)
        with open_deployed(settings) as deployed:
            version = deployed.version(product)
            inspector = deployed.source.use(product, version, lambda path: loader.load(path, product))
            recipe, reference = deployed.recipe(inspector.bundle)
    except PlumblineError as error:
        refuse(error.detail)
    heatmaps = None
    if save_heatmap is not None:
        heatmaps = HeatmapOptions(
            folder=save_heatmap,
            media_type=settings.heatmap_media_type,
            colormap=settings.heatmap_colormap,
            quality=settings.heatmap_quality,
            legend=legend,
        )
    results: list[FileResult] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=ERR
    ) as progress:
        task = progress.add_task("Inspecting", total=len(files))
        for result in inspect_files(inspector, recipe, reference, files, heatmaps):
            progress.advance(task)
            results.append(result)
            status_line(_status(result), f"{result.file}  {_summary(result)}", width=7)
    inspector.close()
    if output is not None:
        write_results(results, output)
    counts = Counter(map(_status, results))
    ERR.print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "No images found.")
    if passed_over:
        ERR.print(
            f"{passed_over} other files in the folders were passed over: their names do not end in "
            f"{', '.join(IMAGE_SUFFIXES)}.",
            soft_wrap=True,
        )
    if set(counts) != {"pass"}:
        raise typer.Exit(FAILURE)


def _status(result: FileResult) -> str:
    return result.decision or "error"


def _summary(result: FileResult) -> str:
    if result.error or result.reasons or result.score is None:
        return result.error or result.reasons or ""
    summary = f"score {result.score:.4g}  p {result.p_value:.3g}"
    if result.decision_by_score != result.decision:
        summary += f"  ({result.decision_by_score} without region filters)"
    return summary
