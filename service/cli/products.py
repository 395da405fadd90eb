"""`plumbline products`: list the products of the model repository."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Column, Table

from service.cli.console import FAILURE, OUT, shown, stop
from service.cli.options import AsJson, Data, Models, load_settings, require_models
from service.errors import PlumblineError
from service.settings import Settings

if TYPE_CHECKING:  # commands that do not need them start faster
    from service.bundle.bundle import Bundle
    from service.recipes.recipe import Recipe

VERSION_LENGTH = 12


def products(models: Models = None, data: Data = None, as_json: AsJson = False) -> None:
    """List the products of the model repository, with the bundle and the recipe that the service would use.

    Exit code: 0 the products are listed, 1 the database cannot be read, 2 the model repository does not exist.
    """
    from service.store.errors import StoreUnavailable

    settings = load_settings(models=models, data=data)
    require_models(settings)
    try:
        rows = _rows(settings)
    except StoreUnavailable as error:
        stop(error.detail, FAILURE)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        OUT.print(_table(rows))
        for row in rows:
            if "error" not in row:
                rate = row["false_reject_statement"] or "no guarantee, the thresholds were set by hand"
                OUT.print(f"{row['product']}: good parts that fail: {shown(rate)}", soft_wrap=True)
            for reason in row.get("weak", []):
                OUT.print(f"[yellow]{row['product']}[/]: weak bundle: {shown(reason)}.", soft_wrap=True)
            for note in row.get("notes", []):
                OUT.print(f"[yellow]{row['product']}[/]: {shown(note)}", soft_wrap=True)
    else:
        OUT.print(f"{shown(settings.models)} holds no product yet.", soft_wrap=True)


def _rows(settings: Settings) -> list[dict[str, Any]]:
    """Return the facts of each product; `error` where its bundle or its recipe cannot be read.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    from service.bundle.bundle import Bundle
    from service.cli.offline import open_deployed
    from service.store.errors import StoreUnavailable

    rows: list[dict[str, Any]] = []
    # Graphs of the bundle store are not fetched only to be listed.
    load = Bundle.describe if settings.bundle_store else Bundle.load
    with open_deployed(settings) as deployed:
        for name in deployed.products():
            version = deployed.version(name)
            try:
                bundle = deployed.source.use(name, version, load, with_graph=not settings.bundle_store)
                recipe, _ = deployed.recipe(bundle)
            except StoreUnavailable:
                raise
            except PlumblineError as error:
                rows.append({"product": name, "version": version, "error": error.detail})
            else:
                rows.append(_row(bundle, recipe))
    return rows


def _row(bundle: Bundle, recipe: Recipe) -> dict[str, Any]:
    from service.inspection.calibration import describe_card

    manifest, bound = bundle.manifest, recipe.rate_bound
    return {
        "product": manifest.product,
        "version": bundle.version,
        "method": manifest.method,
        "precision": manifest.precision,
        "created_at": manifest.created_at.isoformat(timespec="seconds"),
        "calibration_images": len(bundle.card.scores),
        "fail_threshold": recipe.fail_threshold,
        "review_threshold": recipe.review_threshold,
        "target_false_reject_rate": recipe.target_false_reject_rate,
        "false_reject_bound": None if bound is None else asdict(bound),
        "false_reject_statement": None if bound is None else str(bound),
        "weak": manifest.training.weak,
        "notes": describe_card(bundle.card),
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    # A version is copied into commands, so it is never shortened.
    version = Column("version", no_wrap=True, min_width=VERSION_LENGTH)
    table = Table("product", version, "method", "created", "fail above", "review above")
    for row in rows:
        if "error" in row:
            table.add_row(row["product"], row["version"], f"[red]{shown(row['error'])}[/]")
            continue
        table.add_row(
            row["product"],
            row["version"],
            row["method"],
            row["created_at"][:10],
            f"{row['fail_threshold']:.4g}",
            f"{row['review_threshold']:.4g}",
        )
    return table
