"""`plumbline bundle`: verify, import, export and remove bundles."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.bundle_pruning import prune
from service.cli.console import ERR, FAILURE, OUT, refuse, shown, status_line, stop
from service.cli.credentials import operator
from service.cli.options import AsJson, Data, Models, Provider, load_settings
from service.errors import PlumblineError
from service.settings import Settings

if TYPE_CHECKING:
    from service.bundle.bundle import Bundle

_VERSION = re.compile(r"[0-9a-f]{12}")
app = typer.Typer(help="Verify, import, export and remove bundles.", no_args_is_help=True)


@app.command()
def verify(
    paths: Annotated[
        list[Path], typer.Argument(help="Folders of bundles, models/PRODUCT/VERSION, or of products, models/PRODUCT.")
    ],
    provider: Provider = None,
    as_json: AsJson = False,
) -> None:
    """Verify bundles: schema, hashes, no external data, and the self-test with the golden samples.

    The self-test runs in a process of its own with limits on time and memory, and then on the execution provider that
    the service would use.

    Exit code: 0 all bundles are intact, 1 at least one cannot be served.
    """
    from service.deployment.configuration import bundle_loader
    from service.inspection.runtime.configure import configure

    configure()
    loader = bundle_loader(load_settings(provider=provider))
    reports: list[dict[str, Any]] = []
    for path in [bundle for given in paths for bundle in _bundles_in(given)]:
        try:
            inspector = loader.load(path.absolute())
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
            status_line("intact" if report["intact"] else "broken", f"{report['bundle']}: {report['detail']}")
    if not all(report["intact"] for report in reports):
        raise typer.Exit(FAILURE)


@app.command("import")
def import_bundle(
    archive: Annotated[Path, typer.Argument(help="Zip file of a bundle, as `plumbline bundle export` writes it.")],
    product: Annotated[str, typer.Option(help="Product that the bundle belongs to.")],
    models: Models = None,
) -> None:
    """Import a bundle from a zip file into the model repository, completely or not at all.

    A running service finds the bundle when it is restarted. To add it at once, upload it to the service. With
    PLUMBLINE_BUNDLE_STORE, the bundle is stored in the bundle store, too.

    Exit code: 0 the bundle is in the repository, 2 it was refused.
    """
    from service.bundle.archive import import_archive
    from service.bundle.manifest import PRODUCT_NAME

    settings = load_settings(models=models)
    if not PRODUCT_NAME.fullmatch(product):
        refuse(f"{product!r} is not a valid product name.")
    try:
        with archive.open("rb") as file:
            bundle, is_new = import_archive(settings.models, product, file, settings.max_bundle_bytes)
        if settings.bundle_store:
            is_new = _store(settings, bundle)
    except PlumblineError as error:
        refuse(error.detail)
    except OSError as error:
        refuse(f"{archive} cannot be imported: {error.strerror}.")
    path = shown(bundle.path)
    if is_new:
        OUT.print(f"Imported the bundle to {path}.", soft_wrap=True)
    else:
        OUT.print(f"The bundle already exists in {path} and is identical. Nothing was changed.", soft_wrap=True)


@app.command("import-repository")
def import_repository(
    folder: Annotated[
        Path | None, typer.Argument(help="The model repository.", show_default="PLUMBLINE_MODELS")
    ] = None,
    models: Models = None,
    data: Data = None,
) -> None:
    """Import all bundles of a model repository into the bundle store (PLUMBLINE_BUNDLE_STORE).

    Bundles that are in the store already are passed over unless they are damaged there, so the command can be
    interrupted and repeated. It can run while the service runs. The folder stays as it is.

    Exit code: 0 all bundles are in the store, 1 at least one is broken or the store cannot be used, 2 wrong usage.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from service.cli.bundle_store import open_for_writing
    from service.deployment.sources.importing import import_bundles, list_bundles

    settings = load_settings(models=models, data=data)
    if not settings.bundle_store:
        refuse("PLUMBLINE_BUNDLE_STORE is not set: it names the bundle store, such as s3://BUCKET/PREFIX.")
    origin = (folder or settings.models).absolute()
    if not origin.is_dir():
        refuse(f"The model repository {origin} does not exist. Give the folder that holds the products.")
    counts: Counter[str] = Counter()
    size = 0
    new: set[str] = set()
    try:
        keys = list_bundles(origin)
        with (
            open_for_writing(settings) as (source, engine),
            Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=ERR
            ) as progress,
        ):
            task = progress.add_task("Importing", total=len(keys))
            before = source.products()
            for one in import_bundles(origin, keys, source, engine, operator()):
                progress.advance(task)
                counts[one.outcome] += 1
                size += one.size
                if one.outcome == "stored" and one.product not in before:
                    new.add(one.product)
                if one.outcome != "known":
                    what = f"{one.product}/{one.version}"
                    status_line(one.outcome, what if one.outcome == "stored" else f"{what}: {one.reason}", width=7)
    except PlumblineError as error:
        stop(f"{error.detail} {counts['stored']} bundles were stored. Run the command again to continue.", FAILURE)
    except OSError as error:
        stop(f"{error.filename} cannot be used: {error.strerror}.", FAILURE)
    except KeyboardInterrupt:
        stop(f"Interrupted. {counts['stored']} bundles were stored. Run the command again to continue.", FAILURE)
    ERR.print(
        f"{counts['stored']} stored ({size / 2**20:.1f} MiB), {counts['known']} in the store before, "
        f"{counts['broken']} broken"
    )
    if new:
        ERR.print(
            f"{len(new)} new products. Services that run now do not serve them: activate a bundle of each, or restart "
            "the services."
        )
    if counts["broken"]:
        raise typer.Exit(FAILURE)


@app.command("export")
def export_bundle(
    path: Annotated[
        Path, typer.Argument(help="Folder of the bundle: models/PRODUCT/VERSION, or models/PRODUCT if it has only one.")
    ],
    output: Annotated[Path | None, typer.Option(help="Zip file to write.", show_default="PRODUCT-VERSION.zip")] = None,
) -> None:
    """Export a bundle as a zip file, for upload or import. The same bundle always gives the same file.

    Exit code: 0 the file is written, 2 the bundle is not intact or the file cannot be written.
    """
    from service.bundle.archive import write_archive
    from service.bundle.bundle import Bundle
    from service.bundle.manifest import MANIFEST

    found = _bundles_in(path)
    if len(found) > 1:
        refuse(f"{path} holds {len(found)} bundles. Give the folder of one of them: {', '.join(map(str, found))}.")
    if not (found[0] / MANIFEST).is_file():
        refuse(f"{path} is not a bundle: it holds no {MANIFEST}. Give the folder models/PRODUCT/VERSION.")
    try:
        bundle = Bundle.load(found[0].absolute())
        target = output or Path(f"{bundle.manifest.product}-{bundle.version}.zip")
        with target.open("wb") as file:
            write_archive(bundle, file)
    except PlumblineError as error:
        refuse(error.detail)
    except OSError as error:
        refuse(f"{error.filename} cannot be written: {error.strerror}.")
    OUT.print(f"Exported {bundle.manifest.product} {bundle.version} to {shown(target)}.", soft_wrap=True)


app.command()(prune)


def _store(settings: Settings, bundle: Bundle) -> bool:
    """Store a bundle in the bundle store. Return whether it was not there before."""
    from service.cli.bundle_store import open_for_writing
    from service.deployment.sources.importing import store_bundle

    with open_for_writing(settings) as (source, engine):
        return store_bundle(bundle, source, engine, operator())


def _bundles_in(path: Path) -> list[Path]:
    """Return the bundles in the folder of a product, newest first; if `path` is not such a folder, `path` itself.

    A model repository is refused with the names of its products.
    """
    from service.bundle.bundle import bundle_folders
    from service.bundle.manifest import MANIFEST

    if (path / MANIFEST).exists() or not path.is_dir():
        return [path]
    try:
        # The sub-folder `golden` of a bundle that has lost its manifest is not a bundle.
        found = [folder for folder in bundle_folders(path) if _is_bundle(folder)]
        products = [] if found else sorted(each.name for each in path.iterdir() if any(map(_is_bundle, _folders(each))))
    except OSError as error:
        refuse(f"{error.filename} cannot be read: {error.strerror}.")
    if products:
        refuse(
            f"{path} is a model repository, expected the folder of a product or a bundle. Give "
            f"{path / 'PRODUCT'}; its products are: {', '.join(products)}."
        )
    return found or [path]


def _folders(path: Path) -> list[Path]:
    return [each for each in path.iterdir() if each.is_dir()] if path.is_dir() else []


def _is_bundle(folder: Path) -> bool:
    """Return whether a folder is meant to be a bundle: it has a manifest, or the name of a version."""
    from service.bundle.manifest import MANIFEST

    return (folder / MANIFEST).is_file() or (folder.is_dir() and _VERSION.fullmatch(folder.name) is not None)
