"""`plumbline replay`: inspect stored images again and compare."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any

import typer

from service.cli.console import ERR, FAILURE, refuse, status_line
from service.cli.options import AsJson, Data, Models, Provider, load_settings, require_models
from service.errors import PlumblineError


def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of the inspections.")] = None,
    product: Annotated[str | None, typer.Option(help="Instead of ids: the newest inspections of this product.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Instead of ids, or with --product: inspections from this time on, in ISO 8601."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of inspections if no ids are given.")] = 1000,
    models: Models = None,
    data: Data = None,
    provider: Provider = None,
    as_json: AsJson = False,
) -> None:
    """Inspect stored images again, with the bundle and the recipe that their inspections name, and compare.

    Reads the data folder and the model repository, whether the service is running or not. An inspection whose image,
    bundle or recipe no longer exists cannot be replayed; it is reported as impossible and does not count as different.

    Exit code: 0 all replayed inspections have the same result, 1 some differ or none could be replayed, 2 wrong usage.
    """
    from service.cli.offline import InvalidTime, known_products, open_bundles, open_store, stored_inspections
    from service.deployment.configuration import bundle_loader
    from service.deployment.errors import UnknownProduct
    from service.deployment.replay import Replayer
    from service.inspection.runtime.configure import configure

    configure()
    settings = load_settings(models=models, data=data, provider=provider)
    if bool(ids) == bool(product or since):
        refuse("Give either the ids of inspections or --product, --since or both.")
    require_models(settings)
    counts: Counter[str] = Counter()
    reports: list[dict[str, Any]] = []
    try:
        with (
            open_store(settings) as store,
            open_bundles(settings) as source,
            Replayer(source, store, bundle_loader(settings)) as replayer,
        ):
            for inspection_id, record in stored_inspections(store, ids or [], product, since, limit):
                try:
                    if isinstance(record, PlumblineError):
                        raise record
                    replayed = replayer.replay(record)
                    outcome, detail = str(replayed.outcome), replayed.summary
                except PlumblineError as error:
                    outcome, detail = "impossible", error.detail
                counts[outcome] += 1
                reports.append({"inspection_id": inspection_id, "outcome": outcome, "detail": detail})
                if not as_json:
                    status_line(outcome, f"{inspection_id}  {detail}", width=10)
    except PlumblineError as error:
        refuse(error.detail)
    except InvalidTime as error:
        refuse(f"--since: {error}")
    known = known_products(settings)
    if not reports and product is not None and product not in known:
        refuse(UnknownProduct(product, known, None if settings.bundle_store else settings.models).detail)
    if as_json:
        typer.echo(json.dumps(reports, indent=2))
    ERR.print(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "No inspections found.")
    if counts["different"] or not counts["same"]:
        raise typer.Exit(FAILURE)
