"""`plumbline report`: what happened to a product in a period, read from the database without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from service.cli.console import ERR, FAILURE, OUT, refuse, shown, stop
from service.cli.options import Data, Models, load_settings


def report(
    product: Annotated[str, typer.Option(help="Name of the product.")],
    since: Annotated[str, typer.Option(help="Start of the period, inclusive, in ISO 8601; local time without a zone.")],
    until: Annotated[
        str | None, typer.Option(help="End of the period, exclusive, in ISO 8601; by default now.")
    ] = None,
    station: Annotated[str | None, typer.Option(help="Only inspections at this station.")] = None,
    format_name: Annotated[
        Literal["html", "csv", "json"],
        typer.Option("--format", help="A page for people, a table with one figure per row, or JSON."),
    ] = "html",
    output: Annotated[
        Path | None, typer.Option(help="File to write, complete or not at all; by default the report is printed.")
    ] = None,
    language: Annotated[Literal["en", "de"], typer.Option(help="Language of the page.")] = "en",
    time_zone: Annotated[
        str | None,
        typer.Option(
            help="IANA name of the time zone of the times in the report, such as Europe/Berlin; by default that of the "
            "service (PLUMBLINE_TIME_ZONE)."
        ),
    ] = None,
    models: Models = None,
    data: Data = None,
) -> None:
    """Report on a shift: counts, yields, where defects accumulate, scores, reviews, changes and drift.

    Reads the database and one image, whether the service is running or not, and changes nothing. The HTML page is one
    file without scripts, for screen and paper. The same report: GET /v1/products/PRODUCT/report.

    Exit code: 0 the report is complete, 1 the database cannot be read or the file cannot be written, 2 wrong usage.
    """
    from service.cli.inspections import complete_file, require_product
    from service.cli.offline import InvalidTime, known_products, open_store, parse_time
    from service.errors import InvalidRequest, PlumblineError
    from service.monitoring.clock import Clock
    from service.reports.render import render
    from service.serving.periods import parse_zone
    from service.serving.reports import ReportRequest, report_steps
    from service.store.inspection_filter import InspectionFilter
    from service.store.inspections import list_inspections

    settings = load_settings(models=models, data=data)
    try:
        which = InspectionFilter(
            product=product,
            station=station,
            since=parse_time(since),
            until=None if until is None else parse_time(until),
        )
    except InvalidTime as error:
        refuse(f"--since or --until: {error}")
    try:
        zone = parse_zone(time_zone or settings.time_zone)
    except InvalidRequest as error:
        refuse(f"--time-zone: {error.detail}")
    if output is not None and not output.parent.is_dir():
        refuse(f"The folder {output.parent} of --output does not exist.")
    try:
        with open_store(settings) as store, ERR.status("Making the report ..."):
            if not list_inspections(store.engine, InspectionFilter(product), limit=1):
                require_product(product, known_products(settings), settings)
            request = ReportRequest(which, zone)
            steps = report_steps(store.engine, store.files, request, Clock().now())
            made = next(step for step in steps if step is not None)
        text = render(made, format_name, language)
        if output is None:
            typer.echo(text, nl=False)
            return
        with complete_file(output) as file:
            file.write(text)
    except InvalidRequest as error:
        refuse(error.detail)
    except PlumblineError as error:
        stop(error.detail, FAILURE)
    except OSError as error:
        stop(f"{output} cannot be written: {error.strerror}.", FAILURE)
    OUT.print(f"{made.content.total.total} inspections reported in {shown(output)}", soft_wrap=True)
