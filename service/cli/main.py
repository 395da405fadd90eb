"""Entry point of the command line of the service."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Annotated

import typer

from service.cli import account, audit, bundle, inspections, key, outbox, recipe, reviews, sink
from service.cli.capacity.command import capacity
from service.cli.console import FAILURE, OUT
from service.cli.doctor import doctor
from service.cli.inspect import inspect
from service.cli.options import CLIENT_VARIABLES, load_settings, with_settings
from service.cli.products import products
from service.cli.replay import replay
from service.cli.report import report
from service.cli.unknown_variables import unknown_variables
from service.cli.watch import watch
from service.settings import Settings
from service.version import VERSION

app = typer.Typer(
    name="plumbline",
    help="Visual anomaly inspection of parts: images in, decisions and heatmaps out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def show_version(is_requested: bool) -> None:
    """Print the version and end the command, if `--version` is given."""
    if is_requested:
        OUT.print(VERSION)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[  # noqa: ARG001 - its callback uses it
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Visual anomaly inspection of parts: images in, decisions and heatmaps out."""
    import structlog

    # Standard output belongs to the result of a command, such as JSON. `serve` configures its logs itself.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


@app.command()
@with_settings
def serve(settings: Settings) -> None:
    """Serve all products of the model repository over HTTP."""
    # Commands import what they need when they run, so that `plumbline --help` does not load FastAPI and ONNX Runtime.
    import structlog

    # What is imported stays until the end: to search it for garbage meanwhile would take a fifth of the time.
    gc.disable()
    from service.monitoring.logs import configure_logging
    from service.server import run

    gc.enable()
    gc.freeze()
    configure_logging(settings)
    for variable in unknown_variables(os.environ, CLIENT_VARIABLES):
        structlog.get_logger(__name__).warning(
            "environment variable not used", reason=variable.detail, remedy=variable.remedy
        )
    if not run(settings):
        raise typer.Exit(FAILURE)


app.command()(inspect)
app.command()(capacity)
app.command()(doctor)
app.command()(products)
app.command()(replay)
app.command()(report)
app.command()(watch)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP API."""
    from service.app import create_app

    typer.echo(json.dumps(create_app(load_settings()).openapi(), indent=2))


app.add_typer(audit.app, name="audit")
app.add_typer(bundle.app, name="bundle")
app.add_typer(key.app, name="key")
app.add_typer(account.app, name="account")
app.add_typer(recipe.app, name="recipe")
app.add_typer(outbox.app, name="outbox")
app.add_typer(sink.app, name="sink")
app.add_typer(reviews.app, name="reviews")
app.add_typer(inspections.app, name="inspections")


if __name__ == "__main__":
    app()
