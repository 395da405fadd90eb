"""The command line of the service."""

from __future__ import annotations

import inspect as signatures
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.cli.recipe import app as recipe_app
from service.deployment.errors import UnknownProduct
from service.errors import PlumblineError
from service.settings import PREFIX, Settings
from service.version import VERSION

app = typer.Typer(
    name="plumbline",
    help="Industrial visual anomaly inspection: images of parts in, verdicts and heatmaps out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
bundle_app = typer.Typer(help="Work with bundles.", no_args_is_help=True)
app.add_typer(bundle_app, name="bundle")
app.add_typer(recipe_app, name="recipe")

OUT = Console()
ERR = Console(stderr=True)
USAGE = 2
_COLOURS = {
    "pass": "green", "review": "yellow", "fail": "red", "invalid": "magenta",
    "ok": "green", "warning": "yellow", "problem": "red",
    "same": "green", "different": "red", "impossible": "yellow",
}  # fmt: skip

Models = Annotated[Path | None, typer.Option(help="Model repository.", envvar=f"{PREFIX}MODELS")]
Data = Annotated[Path | None, typer.Option(help="Data folder.", envvar=f"{PREFIX}DATA")]
Provider = Annotated[
    str | None, typer.Option(help="auto, cuda or cpu.", envvar=f"{PREFIX}PROVIDER", metavar="PROVIDER")
]


def with_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Give a command one option per setting, with the setting's own documentation.

    The options are text: `Settings` alone knows what is valid, whether it comes from here or the environment.
    """

    def run(**options: str | None) -> None:
        command(load_settings(**options))

    parameters = []
    for name, field in Settings.model_fields.items():
        option = typer.Option(
            help=(field.description or "").replace("\n", " "),
            show_default=str(field.default) if field.default and field.default != frozenset() else False,
            envvar=f"{PREFIX}{name}".upper(),
            metavar=name.split("_")[-1].upper(),
        )
        parameters.append(
            signatures.Parameter(
                name,
                signatures.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[str | None, option],
            )
        )
    run.__signature__ = signatures.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def load_settings(**given: Any) -> Settings:
    """Settings from the command line over the environment; exits with the usage code where they are not
    valid.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for item in error.errors(include_url=False):
            where = ".".join(str(part) for part in item["loc"])
            name = f"{PREFIX}{where}".upper() if where else "Settings"
            ERR.print(f"[red]{name}[/]: {escape(item['msg'].removeprefix('Value error, '))}", highlight=False)
        raise typer.Exit(USAGE) from error


def refuse(message: str) -> NoReturn:
    ERR.print(f"[red]{escape(message)}[/]", highlight=False)
    raise typer.Exit(USAGE)


def show_version(wanted: bool) -> None:
    if wanted:
        OUT.print(VERSION, highlight=False)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Industrial visual anomaly inspection: images of parts in, verdicts and heatmaps out."""


@app.command()
@with_settings
def serve(settings: Settings) -> None:
    """Serve every product of the model repository over HTTP."""
    # Imported here so that `plumbline --help` does not wait for the web framework and ONNX Runtime.
    from service.monitoring.logs import configure_logging
    from service.server import run

    configure_logging(settings)
    if not run(settings):
        raise typer.Exit(1)


@app.command()
def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders that are searched for images.")],
    product: Annotated[str, typer.Option(help="Product to inspect.")],
    models: Models = None,
    data: Data = None,
    provider: Provider = None,
    save_heatmap: Annotated[Path | None, typer.Option(help="Write heatmaps into this folder.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the results here; .json or .csv.")] = None,
) -> None:
    """Inspect files without a server: the same core, and the recipe that the service uses.

    Exit code: 0 every image passes; 1 some image fails, needs review or could not be judged; 2 wrong
    usage.
    """
    from service.app import inspector_options
    from service.cli.offline import (
        bundle_without_server,
        find_images,
        inspect_files,
        recipe_without_server,
        write_results,
    )
    from service.deployment.repository import load_inspector, product_folders
    from service.inspection.runtime.configure import configure

    configure()
    settings = load_settings(models=models, data=data, provider=provider)
    if output is not None and output.suffix not in {".json", ".csv"}:
        refuse(f"The results file {output} must end in .json or .csv.")
    known = list(product_folders(settings.models))
    if product not in known:
        refuse(UnknownProduct(product, known).detail)
    try:
        files = find_images(paths)
    except FileNotFoundError as error:
        refuse(f"{error.args[0]} does not exist.")
    try:
        serving = bundle_without_server(settings, product)
        inspector = load_inspector(serving, product, inspector_options(settings))
        recipe, reference = recipe_without_server(settings, inspector.bundle)
    except PlumblineError as error:
        refuse(error.detail)
    results = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=ERR
    ) as progress:
        task = progress.add_task("Inspecting", total=len(files))
        for result in inspect_files(inspector, recipe, reference, files, save_heatmap, settings.heatmap_media_type):
            progress.advance(task)
            results.append(result)
            word = result.decision or "error"
            colour = _COLOURS.get(word, "magenta")
            about = result.error or result.reasons or f"score {result.score:.4g}  p {result.p_value:.3g}"
            if result.decision_by_score != result.decision and result.score is not None:
                about += f"  ({result.decision_by_score} without region filters)"
            OUT.print(
                f"[{colour}]{word:7}[/] {escape(str(result.file))}  {escape(about)}", highlight=False, soft_wrap=True
            )
    inspector.close()
    if output is not None:
        write_results(results, output)
    counts = Counter(result.decision or "error" for result in results)
    ERR.print(", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "No images found.")
    if set(counts) != {"pass"}:
        raise typer.Exit(1)


@app.command()
@with_settings
def doctor(settings: Settings) -> None:
    """Examine machine, settings and bundles, and name a remedy for every problem.

    Exit code: 0 no problem (warnings may be), 1 some problem, 2 settings that are not valid.
    """
    from service.cli.doctor import Health, examine
    from service.inspection.runtime.configure import configure

    configure()
    worst = Health.OK
    for finding in examine(settings):
        colour = _COLOURS[finding.health]
        OUT.print(
            f"[{colour}]{finding.health:8}[/] [bold]{escape(finding.subject)}[/]: {escape(finding.detail)}",
            highlight=False,
            soft_wrap=True,
        )
        if finding.remedy:
            OUT.print(f"         → {escape(finding.remedy)}", highlight=False, soft_wrap=True)
        if finding.health is Health.PROBLEM:
            worst = finding.health
    if worst is Health.PROBLEM:
        raise typer.Exit(1)


@app.command()
def products(
    models: Models = None,
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the products of the model repository, with the bundle and recipe that would serve."""
    from service.bundle.bundle import Bundle, bundle_folders
    from service.cli.offline import bundle_without_server, recipe_without_server
    from service.deployment.repository import product_folders

    settings = load_settings(models=models, data=data)
    rows: list[dict[str, Any]] = []
    for name in product_folders(settings.models):
        path = bundle_folders(settings.models / name)[0]
        try:
            path = bundle_without_server(settings, name)
            bundle = Bundle.load(path)
            recipe, _ = recipe_without_server(settings, bundle)
        except PlumblineError as error:
            rows.append({"product": name, "version": path.name, "error": error.detail})
            continue
        manifest = bundle.manifest
        rows.append(
            {
                "product": name,
                "version": bundle.version,
                "method": manifest.method,
                "created_at": manifest.created_at.isoformat(timespec="seconds"),
                "calibration_images": len(bundle.card.scores),
                "fail_threshold": recipe.fail_threshold,
                "review_threshold": recipe.review_threshold,
                "target_false_reject_rate": recipe.target_false_reject_rate,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        OUT.print(f"{settings.models} holds no product.", soft_wrap=True)
    table = Table("product", "version", "method", "created", "fail above", "review above", "false rejects")
    for row in rows:
        if "error" in row:
            table.add_row(row["product"], row["version"], f"[red]{escape(row['error'])}[/]")
            continue
        rate = row["target_false_reject_rate"]
        table.add_row(
            row["product"],
            row["version"],
            row["method"],
            row["created_at"],
            f"{row['fail_threshold']:.4g}",
            f"{row['review_threshold']:.4g}",
            f"≤ {rate:.2%}" if rate else "set by hand",
        )
    if rows:
        OUT.print(table)


@app.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of inspections.")] = None,
    product: Annotated[str | None, typer.Option(help="Instead: the newest inspections of this product.")] = None,
    since: Annotated[str | None, typer.Option(help="Instead, or with it: judged then or later; ISO 8601.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most inspections, the newest, where no ids are given.")] = 1000,
    models: Models = None,
    data: Data = None,
    provider: Provider = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Decide stored images again, with the bundle and the recipe that their inspections name, and compare.

    It reads the data folder and the model repository; the service may run or not. A verdict whose image, bundle or
    recipe is gone cannot be replayed; that is reported and is no difference.

    Exit code: 0 what could be replayed came out the same, 1 something came out differently or nothing could be
    replayed, 2 wrong usage.
    """
    from service.app import inspector_options
    from service.cli.offline import store_if_there, stored_inspections
    from service.deployment.replay import Replayer
    from service.inspection.runtime.configure import configure

    configure()
    settings = load_settings(models=models, data=data, provider=provider)
    if bool(ids) == bool(product or since):
        refuse("Name inspections by their ids, or ask for --product, --since or both.")
    counts: Counter[str] = Counter()
    reports: list[dict[str, Any]] = []
    try:
        with (
            store_if_there(settings) as store,
            Replayer(settings.models, store, inspector_options(settings)) as replayer,
        ):
            for inspection_id, row in stored_inspections(store, ids or [], product, since, limit):
                try:
                    if isinstance(row, PlumblineError):
                        raise row
                    replayed = replayer.replay(row)
                    outcome, about = str(replayed.outcome), replayed.summary
                except PlumblineError as error:
                    outcome, about = "impossible", error.detail
                counts[outcome] += 1
                reports.append({"inspection_id": inspection_id, "outcome": outcome, "detail": about})
                if not as_json:
                    OUT.print(
                        f"[{_COLOURS[outcome]}]{outcome:10}[/] {inspection_id}  {escape(about)}",
                        highlight=False,
                        soft_wrap=True,
                    )
    except (PlumblineError, ValueError) as error:
        refuse(str(error))
    if as_json:
        typer.echo(json.dumps(reports, indent=2))
    ERR.print(", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "No inspections found.")
    if counts["different"] or not counts["same"]:
        raise typer.Exit(1)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP interface."""
    from service.app import create_app

    typer.echo(json.dumps(create_app(load_settings()).openapi(), indent=2))


@bundle_app.command()
def verify(
    paths: Annotated[list[Path], typer.Argument(help="Bundle folders, models/PRODUCT/VERSION.")],
    provider: Provider = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Verify bundles: hashes, schema, no external data, golden samples on the provider that would serve.

    Exit code: 0 all are intact, 1 some bundle would not be served.
    """
    from service.app import inspector_options
    from service.inspection.inspector import Inspector
    from service.inspection.runtime.configure import configure

    configure()
    options = inspector_options(load_settings(provider=provider))
    reports = []
    for path in paths:
        try:
            inspector = Inspector.load(path.absolute(), options)
        except PlumblineError as error:
            reports.append({"bundle": str(path), "intact": False, "problem": error.slug, "detail": error.detail})
            continue
        parity = inspector.session.self_test(inspector.bundle.golden)
        inspector.close()
        detail = f"{inspector.bundle.manifest.product} {inspector.bundle.version}, parity {parity:.1e}"
        reports.append(
            {"bundle": str(path), "intact": True, "detail": f"{detail} on {inspector.provider}"}
            | {"digest": inspector.bundle.digest}
        )
    if as_json:
        typer.echo(json.dumps(reports, indent=2))
    else:
        for report in reports:
            mark = "[green]intact[/]" if report["intact"] else "[red]broken[/]"
            OUT.print(f"{mark} {escape(str(report['bundle']))}: {escape(str(report['detail']))}", soft_wrap=True)
    if not all(report["intact"] for report in reports):
        raise typer.Exit(1)


@bundle_app.command("import")
def import_bundle(
    archive: Annotated[Path, typer.Argument(help="A bundle's zip file.")],
    product: Annotated[str, typer.Option(help="Whose bundle it is.")],
    models: Models = None,
) -> None:
    """Put an archived bundle into the model repository, all of it or nothing, as an upload does.

    A running service sees it at the next start; upload it instead to have it at once.

    Exit code: 0 it is there, 2 it is refused.
    """
    from service.bundle.archive import import_archive
    from service.bundle.manifest import PRODUCT_NAME

    settings = load_settings(models=models)
    if not PRODUCT_NAME.fullmatch(product):
        refuse(f"{product!r} cannot be the name of a product.")
    try:
        with archive.open("rb") as file:
            bundle, is_new = import_archive(settings.models, product, file, settings.max_bundle_bytes)
    except PlumblineError as error:
        refuse(error.detail)
    except OSError as error:
        refuse(f"{archive}: {error.strerror}.")
    OUT.print(f"{bundle.path} {'is there now' if is_new else 'was there already'}.", highlight=False, soft_wrap=True)


@bundle_app.command("export")
def export_bundle(
    path: Annotated[Path, typer.Argument(help="A bundle's folder, models/PRODUCT/VERSION.")],
    output: Annotated[Path | None, typer.Option(help="The zip file; PRODUCT-VERSION.zip by default.")] = None,
) -> None:
    """Write a bundle as one zip file, to upload or to import elsewhere. The same bundle always gives the same file.

    Exit code: 0 it is written, 2 the bundle is not intact or the file cannot be written.
    """
    from service.bundle.archive import write_archive
    from service.bundle.bundle import Bundle

    try:
        bundle = Bundle.load(path.absolute())
        target = output or Path(f"{bundle.manifest.product}-{bundle.version}.zip")
        with target.open("wb") as file:
            write_archive(bundle, file)
    except PlumblineError as error:
        refuse(error.detail)
    except OSError as error:
        refuse(f"{error.filename}: {error.strerror}.")
    OUT.print(f"{target} holds {bundle.manifest.product} {bundle.version}.", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
