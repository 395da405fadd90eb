"""`plumbline-train`: train, convert, evaluate, report on and compare anomaly detection methods."""

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from training.cli.check_images import check_images_command
from training.cli.compare import compare_command
from training.cli.evaluate import evaluate_command
from training.cli.export import export_command
from training.cli.fit import fit_command
from training.cli.fleet import fleet_command
from training.cli.report import report_command
from training.cli.worker import worker_command

# Options that take several values.
LISTS = ("--methods", "--teachers", "--config", "--seeds", "--categories", "--rotate", "--exclude")

app = typer.Typer(
    help="Train a product on images of good parts and write a bundle for `plumbline serve`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("fit")(fit_command)
app.command("check-images")(check_images_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
app.command("fleet")(fleet_command)
app.command("worker")(worker_command)


@app.callback()
def configure_libraries(
    *, debug: Annotated[bool, typer.Option("--debug", help="Also print the messages of libraries that fail.")] = False
) -> None:
    """Set the process-wide options of the image libraries before any command runs."""
    from service.inspection.runtime.configure import configure

    configure()
    if debug:
        for name in ("training", "service"):
            logger = logging.getLogger(name)
            logger.setLevel(logging.DEBUG)
            logger.addHandler(logging.StreamHandler())


def spread_lists(arguments: Sequence[str]) -> list[str]:
    """Expand `--seeds 0 1 2` to `--seeds 0 --seeds 1 --seeds 2`, the form that typer supports."""
    spread: list[str] = []
    current = ""
    for argument in arguments:
        if argument.startswith("-"):
            current = argument if argument in LISTS else ""
        elif current and spread[-1] != current:
            spread.append(current)
        spread.append(argument)
    return spread


def main() -> None:
    """Run the command line."""
    app(args=spread_lists(sys.argv[1:]))


if __name__ == "__main__":
    main()
